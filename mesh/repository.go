package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"meshseal/policies"
	"meshseal/snapshot"
)

// The names of the mesh repository.
const (
	meshFile     = "meshseal.yaml"
	waiversFile  = "waivers.yaml"
	proxyFile    = "proxy.yaml"
	dataFile     = "data.json"
	proxiesDir   = "proxies"
	workloadsDir = "workloads"
	policiesDir  = "policies"
	rulesDir     = "guardrails"
)

// Bounds of a mesh repository.
const (
	maxFiles  = 20_000
	maxPolicy = 8 << 20  // bytes of one policy file
	maxTotal  = 64 << 20 // bytes of all files together
)

// repository is the mesh repository as it is written, before it is built.
type repository struct {
	mesh      snapshot.Mesh
	proxies   []*proxyConfig
	workloads []snapshot.Workload
	policies  []snapshot.File
	waivers   []snapshot.Waiver
	// spire is what registrations leave out.
	spire spireSettings
	// waiverAt is where each waiver is written, by waiverKey.
	waiverAt map[[4]string]policies.Place
	// unprovenAt is where a workload says that it is unproven, by its name.
	unprovenAt map[string]policies.Place
	// policyAt makes an error about the rule that a workload names, by its name.
	policyAt map[string]func(format string, args ...any) error
	// guardrails are the repository's own rules and their tests.
	guardrails []policies.File
}

// reader reads files within the bounds.
type reader struct {
	fsys  fs.FS
	files int
	bytes int64
}

func (r *reader) read(name string, limit int64) ([]byte, error) {
	info, err := fs.Stat(r.fsys, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	r.files++
	r.bytes += info.Size()
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", name)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s: the file has %d bytes; at most %d are read", name, info.Size(), limit)
	case r.files > maxFiles:
		return nil, fmt.Errorf("%s: the mesh repository has more than %d files", name, maxFiles)
	case r.bytes > maxTotal:
		return nil, fmt.Errorf("%s: the files of the mesh repository have more than %d bytes together", name, int64(maxTotal))
	}
	data, err := fs.ReadFile(r.fsys, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

func (r *reader) yaml(name string) (*source, error) {
	data, err := r.read(name, maxYAML)
	if err != nil {
		return nil, err
	}
	return readYAML(name, data)
}

// folder lists a folder that may be missing.
func (r *reader) folder(dir string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(r.fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s/: %w", dir, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// decode reads the whole mesh repository. Files outside the named folders are
// ignored; inside them every file has a meaning or is an error.
func decode(fsys fs.FS) (*repository, error) {
	r := &reader{fsys: fsys}
	repo := &repository{}
	if err := repo.readMesh(r); err != nil {
		return nil, err
	}
	var problems []error // of each part, so that an author sees them together
	for _, read := range []func(*reader) error{
		repo.readWorkloads, repo.readPolicies, repo.readGuardrails, repo.readWaivers, repo.readProxies,
	} {
		problems = append(problems, read(r))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return repo, repo.checkReferences()
}

func (repo *repository) readMesh(r *reader) error {
	s, err := r.yaml(meshFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s: this is not a mesh repository; `meshseal init DIR` writes one", meshFile)
	}
	if err != nil {
		return err
	}
	m := &repo.mesh
	*m = snapshot.Mesh{
		StatementLifetime: snapshot.DefaultStatementLifetime,
		Grace:             snapshot.DefaultGrace,
		PolicyPath:        snapshot.DefaultPolicyPath,
		SDSCluster:        snapshot.DefaultSDSCluster,
	}
	err = s.object(s.root, meshFile, map[string]func(*yaml.Node) error{
		"format":             parsed(s, &m.Format, parseFormat),
		"mesh":               parsed(s, &m.Name, parseName),
		"trust_domains":      s.trustDomains(&m.TrustDomains),
		"statement_lifetime": parsed(s, &m.StatementLifetime, durationUpTo(snapshot.MaxStatementLifetime)),
		"grace":              parsed(s, &m.Grace, durationUpTo(snapshot.MaxGrace)),
		"policy_path":        parsed(s, &m.PolicyPath, parsePolicyPath),
		"sds_cluster":        parsed(s, &m.SDSCluster, parseSDSCluster),
		"evidence":           s.evidenceSettings(&m.Evidence),
		"spire":              s.spireDefaults(&repo.spire),
	})
	if err != nil {
		return err
	}
	return s.require(s.root, "format", "mesh", "trust_domains")
}

// require reports the first of keys that the mapping n lacks.
func (s *source) require(n *yaml.Node, keys ...string) error {
	have := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		have[n.Content[i].Value] = true
	}
	for _, k := range keys {
		if !have[k] {
			return s.fail(n, "the field %q is missing", k)
		}
	}
	return nil
}

func (s *source) trustDomains(into *[]spiffeid.TrustDomain) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		err := s.list(n, func(e *yaml.Node) error {
			var td spiffeid.TrustDomain
			if err := parsed(s, &td, parseTrustDomain)(e); err != nil {
				return err
			}
			if slices.Contains(*into, td) {
				return s.fail(e, "the trust domain %s stands twice", td)
			}
			*into = append(*into, td)
			return nil
		})
		if err == nil && len(*into) == 0 {
			err = s.fail(n, "name at least one trust domain")
		}
		slices.SortFunc(*into, spiffeid.TrustDomain.Compare)
		return err
	}
}

func parseFormat(s string) (string, error) {
	if s != snapshot.FormatV1 {
		return "", fmt.Errorf("format %q is not known to this release; it builds %q", s, snapshot.FormatV1)
	}
	return s, nil
}

func parseTrustDomain(s string) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(s)
	if err == nil && td.Name() != s {
		err = fmt.Errorf("write the bare name, %q", td.Name())
	}
	return td, err
}

// nameForm is what a mesh, a proxy and a workload may be called: it stands in
// paths, headers and messages.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

func parseName(s string) (string, error) {
	if !nameForm.MatchString(s) {
		return "", fmt.Errorf("%q is not a name: 1 to 63 lower-case letters, digits, dots, dashes and underscores, a letter or digit at both ends", s)
	}
	return s, nil
}

func durationUpTo(limit time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return 0, fmt.Errorf("%q is not a duration such as 90s or 24h", s)
		case d < time.Second || d > limit || d%time.Second != 0:
			return 0, fmt.Errorf("%q is outside 1s to %s, in whole seconds", s, limit)
		}
		return d, nil
	}
}

var policyPathForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)+$`)

func parsePolicyPath(s string) (string, error) {
	if !policyPathForm.MatchString(s) {
		return "", fmt.Errorf("%q is not the path of a rule such as %s", s, snapshot.DefaultPolicyPath)
	}
	return s, nil
}

func parseSDSCluster(s string) (string, error) {
	switch {
	case s == snapshot.DefaultSDSCluster:
		return s, nil
	case strings.HasPrefix(s, snapshot.ReservedPrefix):
		return "", fmt.Errorf("%q: names that begin with %q belong to meshseal", s, snapshot.ReservedPrefix)
	}
	return s, checkLabel(s)
}

func (repo *repository) readPolicies(r *reader) error {
	entries, err := r.folder(policiesDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(policiesDir, e.Name())
		if e.IsDir() || !(path.Ext(name) == ".rego" || e.Name() == dataFile || path.Ext(name) == ".pb") {
			return fmt.Errorf("%s: %s/ holds *.rego files and %s, and *.pb descriptor sets of gRPC services, nothing else", name, policiesDir, dataFile)
		}
		data, err := r.read(name, maxPolicy)
		if err != nil {
			return err
		}
		repo.policies = append(repo.policies, snapshot.File{Path: name, Data: data})
	}
	if len(repo.policies) == 0 {
		return fmt.Errorf("%s/ holds no *.rego file: without a policy every request would be denied", policiesDir)
	}
	return nil
}

func (repo *repository) readGuardrails(r *reader) error {
	entries, err := r.folder(rulesDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(rulesDir, e.Name())
		if e.IsDir() || path.Ext(name) != ".rego" {
			return fmt.Errorf("%s: %s/ holds *.rego files, nothing else", name, rulesDir)
		}
		data, err := r.read(name, maxPolicy)
		if err != nil {
			return err
		}
		repo.guardrails = append(repo.guardrails, policies.File{Path: name, Data: data})
	}
	return nil
}

// sortedKeys are the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
