package importer

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"meshseal/mesh"
	"meshseal/policies"
	"meshseal/snapshot"
)

// try builds the files as a commit that is thrown away, with waivers if they
// are wanted.
func (j *job) try() (*Result, error) {
	j.report.Builds = false
	built, err := j.build()
	if broken := new(mesh.GuardrailError); errors.As(err, &broken) {
		j.findings(broken.Findings)
		if j.Waive > 0 && j.waivers() {
			built, err = j.build()
		}
	}
	broken := new(mesh.GuardrailError)
	switch {
	case err == nil:
		j.report.Builds = true
	case errors.As(err, &broken):
		for _, f := range broken.Findings { // those of waivers
			if f.At.File == "waivers.yaml" {
				j.findings([]policies.Finding{f})
			}
		}
	default:
		j.report.Problem = j.traced(err.Error())
	}
	for _, n := range built.Notices {
		j.tell(Item{Kind: Hardened, Code: n.Code, Line: j.origin(n.File, n.Line), Subject: n.File, Text: n.Text})
	}
	j.item(Hardened, CodeBuild, nil, "every listener, route table and cluster",
		"ext_authz comes first in every chain, paths are normalized, connections and streams get an end, every route table ends in an authorized 404, and all get marks", "see docs/guardrails.md")
	j.report.finish()
	return &Result{Files: j.files, Report: j.report}, nil
}

func (j *job) build() (mesh.Report, error) {
	fsys, err := archive(j.files)
	if err != nil {
		return mesh.Report{}, err
	}
	_, report, err := mesh.Build(fsys, snapshot.Commit{Hash: strings.Repeat("0", 40), Time: j.Now.UTC().Truncate(time.Second), Sequence: 1})
	return report, err
}

// archive is a file system in memory.
func archive(files map[string][]byte) (fs.FS, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range sorted(files) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
}

func (j *job) findings(found []policies.Finding) {
	for _, f := range found {
		j.report.Findings = append(j.report.Findings, Finding{
			Code: f.Code, Resource: f.Resource, Text: f.Text, Mend: f.Mend, At: f.At.String(), Line: j.origin(f.At.File, f.At.Line),
		})
	}
}

// origin is the line of the source from which a line of a file came; 0 if it
// came from nowhere.
func (j *job) origin(file string, line int) int {
	if at := j.places[file]; line > 0 && line < len(at) {
		return at[line]
	}
	return 0
}

var place = regexp.MustCompile(`(proxies/[^:\s]+):(\d+)(:\d+)?`)

// traced adds the line of the source to an error of the build.
func (j *job) traced(text string) string {
	m := place.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	n, _ := strconv.Atoi(m[2])
	if at := j.origin(m[1], n); at > 0 {
		return fmt.Sprintf("%s:%d: %s", j.File, at, text)
	}
	return text
}

// waiver is one entry of waivers.yaml.
type waiver struct {
	Rule     string `yaml:"rule"`
	Proxy    string `yaml:"proxy"`
	Resource string `yaml:"resource"`
	Reason   string `yaml:"reason"`
	Until    string `yaml:"until"`
}

// waivers writes a waiver for each finding that may have one, and reports
// whether it wrote any.
func (j *job) waivers() bool {
	until := j.Now.UTC().AddDate(0, 0, j.Waive).Format(time.DateOnly)
	var list []waiver
	seen := map[[2]string]bool{}
	for i := range j.report.Findings {
		f := &j.report.Findings[i]
		if rule, ok := policies.RuleOf(f.Code); !ok || !rule.Waivable {
			continue
		}
		f.Waived = until
		if key := [2]string{f.Code, f.Resource}; !seen[key] {
			seen[key] = true
			list = append(list, waiver{f.Code, j.Proxy, f.Resource,
				fmt.Sprintf("imported from %s and not reviewed yet: %s", j.report.place(f.Line), f.Text), until})
		}
	}
	if len(list) == 0 {
		return false
	}
	data, err := yaml.Marshal(list)
	if err != nil {
		return false
	}
	j.files["waivers.yaml"] = append(append(j.files["waivers.yaml"], '\n'), data...)
	return true
}

// Write writes the mesh repository into dir, which it makes where it does not
// exist. A folder that holds anything but .git is refused.
func (r *Result) Write(dir string) error {
	if err := mesh.Empty(dir); err != nil {
		return err
	}
	for _, name := range sorted(r.Files) {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return fmt.Errorf("write %q: the name leads out of the folder", name)
		}
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := mesh.WriteNew(to, r.Files[name]); err != nil {
			return err
		}
	}
	return nil
}
