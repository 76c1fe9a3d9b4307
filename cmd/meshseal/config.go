package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"meshseal/extauthz"
)

// serveConfig is the file of `meshseal serve --config`. Each scalar setting can
// also be given by an environment variable, MESHSEAL_ and its path in capitals
// (records.path is MESHSEAL_RECORDS_PATH), and by --set records.path=VALUE,
// which counts most.
//
// No setting that decides whom to trust has a default.
type serveConfig struct {
	// State is the folder that keeps the verified snapshot in force and the
	// highest sequence ever adopted. One process uses it at a time.
	State     string           `yaml:"state"`
	Source    sourceConfig     `yaml:"source"`
	Trust     trustConfig      `yaml:"trust"`
	Signing   signingConfig    `yaml:"signing"`
	Identity  identityConfig   `yaml:"identity"`
	Listeners []listenerConfig `yaml:"listeners"`
	HTTP      httpConfig       `yaml:"http"`
	Webhook   webhookConfig    `yaml:"webhook"`
	SPIRE     spireConfig      `yaml:"spire"`
	Records   recordsConfig    `yaml:"records"`
	// Deadline bounds one check; 500ms if unset. Keep it below the timeout of
	// the ext_authz filter, so that a slow check is denied with its reason.
	Deadline time.Duration `yaml:"deadline"`
	Limits   limitsConfig  `yaml:"limits"`
	// Drain is how long a stopping server says "not serving" before it ends
	// streams; 2s if unset.
	Drain time.Duration `yaml:"drain"`
}

// sourceConfig says where snapshots come from: exactly one of File and Git.
type sourceConfig struct {
	File fileSource `yaml:"file"`
	Git  gitSource  `yaml:"git"`
	// Poll is how often the source is looked at; 1s if unset, 30s for a remote
	// repository.
	Poll time.Duration `yaml:"poll"`
}

// fileSource is a signed snapshot that somebody else built, CI for one.
type fileSource struct {
	Path string `yaml:"path"`
}

// trustConfig says whose signatures count, for a file source.
type trustConfig struct {
	Keys      []string `yaml:"keys"` // files with public keys
	Threshold int      `yaml:"threshold"`
}

// identityConfig is who this server is and whose certificates it believes:
// either WorkloadAPI, or the files.
type identityConfig struct {
	// WorkloadAPI is the agent's socket, unix:///path: the server's own SVID
	// and every trust bundle come from it.
	WorkloadAPI string `yaml:"workload_api"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// TrustBundles are files by trust domain: PEM, or a SPIFFE bundle with the
	// ending .json. They are read again when they change.
	TrustBundles map[string]string `yaml:"trust_bundles"`
	// Intermediates are PEM files with CA certificates between the roots and the
	// SVIDs of nested SPIRE servers. They are no trust: they help to find the way
	// where a certificate comes alone. They are read again when they change.
	Intermediates []string `yaml:"intermediates"`
}

// listenerConfig is one place where Envoys reach xDS and ext_authz: Address
// with mutual TLS, or a Unix socket that stands for one proxy by its file mode.
type listenerConfig struct {
	Address string `yaml:"address"` // host:port
	Socket  string `yaml:"socket"`  // path
	Proxy   string `yaml:"proxy"`   // for a socket without TLS
	TLS     bool   `yaml:"tls"`     // mutual TLS on a socket too
	Owner   *int   `yaml:"owner"`   // the user ID that may open the socket; this process's if unset
}

// httpConfig is where probes, metrics and status are served. None if empty.
type httpConfig struct {
	Address string `yaml:"address"` // host:port, or unix:///path
}

// limitsConfig bounds what is done at once.
type limitsConfig struct {
	// Checks are those in work at once; one above them is denied OVERLOADED. If
	// unset, extauthz.DefaultMaxChecks.
	Checks int `yaml:"checks"`
}

// maxChecks is far above what any machine finishes within a deadline.
const maxChecks = 1_000_000

// recordsConfig is where decision records go.
type recordsConfig struct {
	Path      string `yaml:"path"`       // a file, or "-" for stdout (the default)
	OnFailure string `yaml:"on_failure"` // deny (the default) or allow
}

const envPrefix = "MESHSEAL"

// maxConfigFile is far above any real configuration.
const maxConfigFile = 1 << 20

// loadServeConfig reads the file, then the environment, then --set; what comes
// later counts more.
func loadServeConfig(path string, environ, sets []string) (*serveConfig, error) {
	data, err := readBounded(path, maxConfigFile)
	if err != nil {
		return nil, err
	}
	c := defaults()
	decoder := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := decoder.Decode(c); err != nil {
		return nil, fmt.Errorf("%s: %s", path, yaml.FormatError(err, false, true))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document; what is behind the first would count for nothing", path)
	}
	known := map[string]reflect.Value{}
	scalars(reflect.ValueOf(c).Elem(), "", known)
	for name, v := range known {
		variable := envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
		for _, e := range environ {
			if text, ok := strings.CutPrefix(e, variable+"="); ok {
				if err := setScalar(v, text); err != nil {
					return nil, fmt.Errorf("environment: %s: %w", variable, err)
				}
			}
		}
	}
	for _, s := range sets {
		name, text, ok := strings.Cut(s, "=")
		v, exists := known[name]
		if !ok || !exists {
			return nil, fmt.Errorf("--set %q: give setting=value with the path of a single setting, such as records.path", s)
		}
		if err := setScalar(v, text); err != nil {
			return nil, fmt.Errorf("--set %s: %w", name, err)
		}
	}
	c.Source.settle()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// scalars collects the settings that one text can set, by dotted path.
func scalars(v reflect.Value, prefix string, into map[string]reflect.Value) {
	for i := range v.NumField() {
		field, name := v.Field(i), prefix+v.Type().Field(i).Tag.Get("yaml")
		switch field.Kind() {
		case reflect.Struct:
			scalars(field, name+".", into)
		case reflect.String, reflect.Int, reflect.Int64, reflect.Bool:
			into[name] = field
		}
	}
}

func setScalar(v reflect.Value, text string) error {
	return yaml.UnmarshalWithOptions([]byte(text), v.Addr().Interface(), yaml.Strict())
}

// defaults is the configuration before anything is read.
func defaults() *serveConfig {
	return &serveConfig{
		Source:   sourceConfig{Poll: pollUnset, Git: defaultGit()},
		Records:  recordsConfig{Path: "-", OnFailure: "deny"},
		SPIRE:    spireConfig{Poll: defaultSPIREPoll},
		Limits:   limitsConfig{Checks: extauthz.DefaultMaxChecks()},
		Deadline: 500 * time.Millisecond,
		Drain:    2 * time.Second,
	}
}

// check refuses what is missing or contradicts itself, all of it at once.
func (c *serveConfig) check() error {
	var errs []error
	refuse := func(bad bool, text string) {
		if bad {
			errs = append(errs, errors.New(text))
		}
	}
	file, git := c.Source.File.Path != "", c.Source.Git.named()
	refuse(c.State == "", "state: name a folder that outlives a restart")
	refuse(file == git, "source: name exactly one of file.path (a snapshot that CI signed) and git (built and signed by this server)")
	refuse(file && (len(c.Trust.Keys) == 0 || c.Trust.Threshold < 1), "trust: a file source needs keys and a threshold of at least 1; there is no default for whom to trust")
	refuse(file && !c.Signing.isZero(), "signing: a server with a file source verifies and signs nothing; remove signing")
	if git {
		if err := c.Signing.check(); err != nil {
			errs = append(errs, err)
		}
	}
	refuse(git && (len(c.Trust.Keys) > 0 || c.Trust.Threshold != 0), "trust: a git source is verified with this server's own key; remove trust")
	if git {
		errs = append(errs, c.Source.Git.check()...)
	}
	refuse(!git && c.Source.Git != defaultGit(), "source.git: name a repository or a url")
	errs = append(errs, c.Webhook.check(git)...)
	errs = append(errs, c.SPIRE.check(c.Identity.WorkloadAPI)...)
	refuse(c.Source.Poll < 10*time.Millisecond, "source.poll: at least 10ms")
	refuse(c.Deadline < time.Millisecond || c.Deadline > time.Minute, "deadline: from 1ms to 1m")
	refuse(c.Limits.Checks < 1 || c.Limits.Checks > maxChecks, fmt.Sprintf("limits.checks: from 1 to %d", maxChecks))
	refuse(c.Drain < 0 || c.Drain > time.Hour, "drain: from 0s to 1h")
	refuse(c.Records.OnFailure != "deny" && c.Records.OnFailure != "allow", "records.on_failure: deny or allow")
	id := c.Identity
	refuse((id.WorkloadAPI != "") == (len(id.TrustBundles) > 0), "identity: name exactly one of workload_api and trust_bundles; there is no default for whom to believe")
	refuse((id.Certificate == "") != (id.Key == ""), "identity: certificate and key go together")
	refuse(id.WorkloadAPI != "" && id.Certificate != "", "identity: the certificate comes from workload_api; remove certificate and key")
	refuse(len(c.Listeners) == 0, "listeners: name at least one address or socket")
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listeners[%d]: ", i)
		refuse((l.Address == "") == (l.Socket == ""), at+"name exactly one of address and socket")
		refuse(l.Address != "" && (l.Proxy != "" || l.TLS), at+"an address always speaks mutual TLS, and the certificate names the proxy; remove proxy and tls")
		refuse(l.Socket != "" && l.TLS == (l.Proxy != ""), at+"a socket stands for one proxy (proxy: NAME), or speaks mutual TLS (tls: true)")
		refuse(l.Address != "" && l.Owner != nil, at+"only a socket has an owner; remove owner")
		refuse(l.Socket != "" && !filepath.IsAbs(l.Socket), at+"give the socket as an absolute path")
		refuse((l.Address != "" || l.TLS) && id.WorkloadAPI == "" && id.Certificate == "", at+"mutual TLS needs identity.workload_api, or identity.certificate and key")
	}
	return errors.Join(errs...)
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, above the limit of %d", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}
