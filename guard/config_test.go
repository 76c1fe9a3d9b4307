package guard_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/snapshot"
)

// TestConfigHasOneForm: what is written is read, and nothing that differs in a
// byte is read as the same.
func TestConfigHasOneForm(t *testing.T) {
	c, err := guard.NewConfig("shop", "web", guardtest.Trust(t, 2, guardtest.Key(t), guardtest.Key(t)), "/var/lib/envoy/record.json", []snapshot.TypeURL{snapshot.EndpointType})
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := guard.ParseConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.JSON(); err != nil || !bytes.Equal(second, text) || !again.Trust.Equal(c.Trust) {
		t.Errorf("%s became %s (%v)", text, second, err)
	}
	for i := range text {
		for _, b := range []byte{text[i] ^ 1, text[i] ^ 0x20, 0, ' '} {
			if b == text[i] {
				continue
			}
			changed := bytes.Clone(text)
			changed[i] = b
			c, err := guard.ParseConfig(changed)
			if err != nil {
				continue
			}
			if written, err := c.JSON(); err != nil || !bytes.Equal(written, changed) {
				t.Fatalf("%s was read, and is written as %s", changed, written)
			}
		}
	}
}

func TestConfigRefused(t *testing.T) {
	key := guardtest.Key(t)
	c, err := guard.NewConfig("shop", "web", guardtest.Trust(t, 1, key), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	one := string(text)
	keys := one[strings.Index(one, "[")+1 : strings.Index(one, "]")]
	for name, changed := range map[string]string{
		"empty":                      "",
		"null":                       "null",
		"not JSON":                   "mesh: shop",
		"white space":                one + "\n",
		"something behind it":        one + one,
		"an unknown key":             strings.Replace(one, `"exempt"`, `"more":1,"exempt"`, 1),
		"a key twice":                strings.Replace(one, `"threshold":1`, `"threshold":9,"threshold":1`, 1),
		"a key in upper case":        strings.Replace(one, `"threshold"`, `"Threshold"`, 1),
		"a key missing":              strings.Replace(one, `,"record":""`, "", 1),
		"no mesh":                    strings.Replace(one, `"shop"`, `""`, 1),
		"no proxy":                   strings.Replace(one, `"web"`, `""`, 1),
		"no keys":                    strings.Replace(one, keys, "", 1),
		"a public key twice":         strings.Replace(one, keys, keys+","+keys, 1),
		"a public key that is none":  strings.Replace(one, keys, `"AAAA"`, 1),
		"a private part of base64":   strings.Replace(one, keys, strings.Replace(keys, "=", "", 1), 1),
		"threshold zero":             strings.Replace(one, `"threshold":1`, `"threshold":0`, 1),
		"threshold below zero":       strings.Replace(one, `"threshold":1`, `"threshold":-1`, 1),
		"threshold above the keys":   strings.Replace(one, `"threshold":1`, `"threshold":2`, 1),
		"a relative record":          strings.Replace(one, `"record":""`, `"record":"record.json"`, 1),
		"a record that climbs":       strings.Replace(one, `"record":""`, `"record":"/a/../record.json"`, 1),
		"clusters exempt":            strings.Replace(one, "[]", `["`+string(snapshot.ClusterType)+`"]`, 1),
		"listeners exempt":           strings.Replace(one, "[]", `["`+string(snapshot.ListenerType)+`"]`, 1),
		"routes exempt":              strings.Replace(one, "[]", `["`+string(snapshot.RouteType)+`"]`, 1),
		"secrets exempt":             strings.Replace(one, "[]", `["`+string(guard.TypeURLs()[9])+`"]`, 1),
		"endpoints exempt twice":     strings.Replace(one, "[]", `["`+string(snapshot.EndpointType)+`","`+string(snapshot.EndpointType)+`"]`, 1),
		"far too long":               one + strings.Repeat(" ", 1<<20),
		"a key that cannot be Envoy": strings.Replace(one, `{"mesh"`, `{"@type":"x","mesh"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if changed == one {
				t.Fatal("the case changes nothing")
			}
			if g, err := guard.New([]byte(changed), time.Now); err == nil {
				t.Errorf("made %v of %s", g, changed)
			}
		})
	}
}

// TestProcessHasOneGuard: validators with one configuration share one guard, and
// another configuration is refused, before and after.
func TestProcessHasOneGuard(t *testing.T) {
	var texts [][]byte
	for _, proxy := range []string{"web", "orders"} {
		c, err := guard.NewConfig("shop", proxy, guardtest.Trust(t, 1, guardtest.Key(t)), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	var p guard.Process
	if p.Guard() != nil || p.Open([]byte("{}"), time.Now) == nil || p.Guard() != nil {
		t.Fatal("there is a guard without a configuration")
	}
	for range 9 {
		if err := p.Open(texts[0], time.Now); err != nil {
			t.Fatal(err)
		}
	}
	first := p.Guard()
	if err := p.Open(texts[1], time.Now); err == nil || p.Guard() != first {
		t.Errorf("a second configuration: %v", err)
	}
}
