package main

import (
	"bytes"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// TestConfigIsDocumented: the example of docs/serve.md, with what is a comment
// in it too, has every setting and no other.
func TestConfigIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(page)
	if example == nil {
		t.Fatal("docs/serve.md has no example")
	}
	text := regexp.MustCompile(`(?m)^( *)# `).ReplaceAll(example[1], []byte("$1"))
	var c serveConfig
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&c); err != nil {
		t.Fatalf("the example: %s", yaml.FormatError(err, false, true))
	}
	missing(t, reflect.ValueOf(c), "")
	seen := map[string]bool{}
	for _, l := range c.Listeners {
		for i := range reflect.ValueOf(l).NumField() {
			if !reflect.ValueOf(l).Field(i).IsZero() {
				seen[reflect.TypeOf(l).Field(i).Tag.Get("yaml")] = true
			}
		}
	}
	for f := range reflect.TypeFor[listenerConfig]().Fields() {
		if !seen[f.Tag.Get("yaml")] {
			t.Errorf("no listener has the setting %s", f.Tag.Get("yaml"))
		}
	}
}

// missing names the settings that the example leaves out.
func missing(t *testing.T, v reflect.Value, prefix string) {
	t.Helper()
	for i := range v.NumField() {
		name := strings.TrimPrefix(prefix+"."+v.Type().Field(i).Tag.Get("yaml"), ".")
		switch {
		case v.Field(i).Kind() == reflect.Struct:
			missing(t, v.Field(i), name)
		case v.Field(i).IsZero():
			t.Errorf("the example leaves out %s", name)
		}
	}
}
