package guard

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"meshseal/snapshot"
)

// maxConfig bounds the JSON of a configuration, in bytes.
const maxConfig = 64 << 10

// Config is what a guard must know before it can judge. All of it comes from
// whoever writes the Envoy's bootstrap, and none of it over xDS.
type Config struct {
	// Mesh and Proxy are whose seal is accepted.
	Mesh, Proxy string
	// Trust is who may sign. The guard's record may know that the keys were
	// rotated since.
	Trust snapshot.Trust
	// Record is the absolute path of the file that remembers the highest
	// snapshot that was ever accepted. If it is empty, a restart of the Envoy
	// forgets it, and an older snapshot whose statement has not expired is
	// accepted again.
	Record string
	// Exempt are the types whose resources need not be in the seal; those that
	// are in it have to be as they are there. Only endpoints can be exempt: the
	// sealed cluster still says which SPIFFE ID has to answer there.
	Exempt []snapshot.TypeURL
}

type configJSON struct {
	Mesh      string             `json:"mesh"`
	Proxy     string             `json:"proxy"`
	Keys      []string           `json:"keys"`
	Threshold int                `json:"threshold"`
	Record    string             `json:"record"`
	Exempt    []snapshot.TypeURL `json:"exempt"`
}

// NewConfig checks the parts of a configuration.
func NewConfig(mesh, proxy string, trust snapshot.Trust, record string, exempt []snapshot.TypeURL) (Config, error) {
	switch {
	case trust.IsZero():
		return Config{}, errors.New("no key is trusted")
	case mesh == "":
		return Config{}, errors.New("the mesh has no name")
	case proxy == "":
		return Config{}, errors.New("the proxy has no name")
	case record != "" && (!filepath.IsAbs(record) || filepath.Clean(record) != record):
		return Config{}, fmt.Errorf("record %q: give an absolute path, or nothing to remember nothing", record)
	}
	for i, url := range exempt {
		if url != snapshot.EndpointType || i > 0 {
			return Config{}, fmt.Errorf("exempt %q: only %s can be exempt, once", url, snapshot.EndpointType)
		}
	}
	return Config{Mesh: mesh, Proxy: proxy, Trust: trust, Record: record, Exempt: exempt}, nil
}

// JSON is the one text of the configuration, which ParseConfig reads.
func (c Config) JSON() ([]byte, error) {
	j := configJSON{
		Mesh: c.Mesh, Proxy: c.Proxy, Threshold: c.Trust.Threshold(), Record: c.Record,
		Keys: []string{}, Exempt: append([]snapshot.TypeURL{}, c.Exempt...),
	}
	for _, k := range c.Trust.Public() {
		block, _ := pem.Decode(k.PEM())
		if block == nil {
			return nil, errors.New("a key has no PEM form")
		}
		j.Keys = append(j.Keys, base64.StdEncoding.EncodeToString(block.Bytes))
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(j); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ParseConfig reads exactly what JSON writes: keys in another order, a key
// twice, one that is unknown or missing, or white space is refused, so that two
// readers of a bootstrap never see two configurations.
func ParseConfig(text []byte) (Config, error) {
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("%d bytes, at most %d", len(text), maxConfig)
	}
	var j configJSON
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return Config{}, fmt.Errorf("it is no JSON of the form that `meshseal bootstrap` writes: %w", err)
	}
	var keys []snapshot.PublicKey
	for i, text := range j.Keys {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return Config{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		key, err := snapshot.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		if err != nil {
			return Config{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	trust, err := snapshot.NewTrust(keys, j.Threshold)
	if err != nil {
		return Config{}, err
	}
	c, err := NewConfig(j.Mesh, j.Proxy, trust, j.Record, j.Exempt)
	if err != nil {
		return Config{}, err
	}
	if again, err := c.JSON(); err != nil || !bytes.Equal(again, text) {
		return Config{}, errors.New("it is not in the one form that `meshseal bootstrap` writes: every key once, in its order, no white space")
	}
	return c, nil
}
