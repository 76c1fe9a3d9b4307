package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const gitConfig = `
state: /s
source: {git: {SOURCE}}
signing: {key: /k}
identity: {workload_api: "unix:///a"}
listeners: [{address: "127.0.0.1:1"}]
`

func loadGit(t *testing.T, source, more string) (*serveConfig, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "serve.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(gitConfig, "SOURCE", source, 1)+more), 0o600); err != nil {
		t.Fatal(err)
	}
	return loadServeConfig(file, nil, nil)
}

// TestGitSourceSaysWhomToTrust: there is no default for whose commits count.
func TestGitSourceSaysWhomToTrust(t *testing.T) {
	const local, remote = "repository: /r, ref: main, ", "url: https://git.shop.test/mesh.git, ref: main, "
	for source, says := range map[string]string{
		local + "signers: {ssh: /a}": "", local + "signers: {openpgp: /a}": "", local + "signers: {unsigned: allow}": "",
		remote + "signers: {ssh: /a, openpgp: /b, require: tag, history: every}": "",
		"repository: /r, commit: x, signers: {unsigned: allow}":                  "",

		local: "there is no default", remote: "there is no default", local + "signers: {require: commit}": "there is no default",
		local + "signers: {unsigned: yes-please}":                     "allow, or nothing",
		local + "signers: {unsigned: allow, ssh: /a}":                 "contradict",
		local + "signers: {ssh: /a, require: both}":                   "commit or tag",
		local + "signers: {ssh: /a, history: some}":                   "tip or every",
		local + "signers: {ssh: /a}, https: {token: /t}":              "for a url",
		local + "signers: {ssh: /a}, ssh: {key: /t}":                  "for a url",
		local + "signers: {ssh: /a}, limits: {objects: 5}":            "for a url",
		local + "signers: {unsigned: allow, history: every}":          "remove require and history",
		local + "signers: {unsigned: allow, require: tag}":            "remove require and history",
		local + "url: https://x/y, signers: {ssh: /a}":                "exactly one of repository",
		"repository: /r, signers: {ssh: /a}":                          "exactly one of ref",
		"repository: /r, ref: x, commit: y, signers: {ssh: /a}":       "exactly one of ref",
		"repository: /r, commit: y, signers: {ssh: /a, require: tag}": "named by ref",
		"ref: main, signers: {ssh: /a}":                               "exactly one of file.path",
		local + "signers: {ssh: /a, sssh: /b}":                        "unknown field",
	} {
		t.Run(source, func(t *testing.T) {
			_, err := loadGit(t, source, "")
			if says == "" && err != nil {
				t.Error(err)
			}
			if says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
				t.Errorf("%v, want %q", err, says)
			}
		})
	}
}

// TestPollOfASource: a remote is asked less often, unless somebody says how
// often.
func TestPollOfASource(t *testing.T) {
	for source, want := range map[string]time.Duration{
		"repository: /r, ref: main, signers: {unsigned: allow}":                       time.Second,
		"url: https://x/y, ref: main, signers: {unsigned: allow}":                     30 * time.Second,
		"url: https://x/y, ref: main, signers: {unsigned: allow}}, poll: 7s, file: {": 7 * time.Second,
	} {
		c, err := loadGit(t, source, "")
		if err != nil || c.Source.Poll != want {
			t.Errorf("%s: %v, %v", source, c, err)
		}
	}
}

func TestWebhookConfig(t *testing.T) {
	const source = "repository: /r, ref: main, signers: {unsigned: allow}"
	for hook, says := range map[string]string{
		`{address: "127.0.0.1:2", kind: github, secret: /s}`:                                  "",
		`{address: "127.0.0.1:2", kind: gitlab-signed, secret: /s, certificate: /c, key: /k}`: "",
		`{kind: github, secret: /s}`:                                                          "name an address",
		`{address: "127.0.0.1:2", secret: /s}`:                                                "github, gitlab-signed or gitlab",
		`{address: "127.0.0.1:2", kind: gitea, secret: /s}`:                                   "github, gitlab-signed or gitlab",
		`{address: "127.0.0.1:2", kind: github}`:                                              "a call that proves nothing",
		`{address: "127.0.0.1:2", kind: github, secret: /s, key: /k}`:                         "go together",
	} {
		_, err := loadGit(t, source, "webhook: "+hook+"\n")
		if says == "" && err != nil {
			t.Errorf("%s: %v", hook, err)
		}
		if says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", hook, err, says)
		}
	}
}
