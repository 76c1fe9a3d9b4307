package main

import (
	"errors"
	"net/http"
	"time"

	"meshseal/mesh/gitsource"
)

// gitSource is a Git repository that this server builds and signs: Repository,
// a local folder, or URL.
type gitSource struct {
	Repository string `yaml:"repository"`
	URL        string `yaml:"url"` // https://… or ssh://user@…
	// Folder is that of the mesh in the commit; its top if unset.
	Folder string `yaml:"folder"`
	// Ref is followed as it moves, to descendants only.
	Ref string `yaml:"ref"`
	// Commit is a pin: this one and no other.
	Commit  string        `yaml:"commit"`
	Signers signersConfig `yaml:"signers"`
	HTTPS   httpsRemote   `yaml:"https"`
	SSH     sshRemote     `yaml:"ssh"`
	Limits  gitLimits     `yaml:"limits"`
}

// signersConfig says whose signatures on commits count. It has no default:
// name a list, or say that none is asked for.
type signersConfig struct {
	SSH     string `yaml:"ssh"`     // file in the format of OpenSSH's allowed signers
	OpenPGP string `yaml:"openpgp"` // file with armored public keys
	// Require is what has to be signed: commit (the default), the one that is
	// built, or tag, the annotated tag that ref names.
	Require string `yaml:"require"`
	// History is which commits: tip (the default), only the one that is built,
	// or every, each that it brings beyond the one in force.
	History string `yaml:"history"`
	// Unsigned is allow, or unset.
	Unsigned string `yaml:"unsigned"`
}

const (
	requireCommit = "commit"
	requireTag    = "tag"
	historyTip    = "tip"
	historyEvery  = "every"
)

// httpsRemote is how https:// is spoken. The files are read at every fetch.
type httpsRemote struct {
	CA       string `yaml:"ca"`       // file of PEM certificates in place of the system's roots
	Token    string `yaml:"token"`    // file; sent as a bearer token
	Username string `yaml:"username"` // goes with Password
	Password string `yaml:"password"` // file
}

// sshRemote is how ssh:// is spoken. The files are read at every fetch.
type sshRemote struct {
	Key        string `yaml:"key"`         // file with a private key
	KnownHosts string `yaml:"known_hosts"` // file
}

// gitLimits bound one fetch.
type gitLimits struct {
	Size    int64         `yaml:"size"`    // bytes that the remote may send; 512 MiB if unset
	Objects int64         `yaml:"objects"` // in what it sends; 2,000,000 if unset
	Object  int64         `yaml:"object"`  // bytes of one; 64 MiB if unset
	Time    time.Duration `yaml:"time"`    // of a whole fetch; 2m if unset
}

func defaultGit() gitSource {
	return gitSource{
		Signers: signersConfig{Require: requireCommit, History: historyTip},
		Limits:  gitLimits{Size: 512 << 20, Objects: 2_000_000, Object: 64 << 20, Time: 2 * time.Minute},
	}
}

// pollUnset stands for an interval that nobody has set.
const pollUnset = time.Duration(-1)

// settle fills in what depends on other settings.
func (c *sourceConfig) settle() {
	if c.Poll != pollUnset {
		return
	}
	if c.Poll = time.Second; c.Git.URL != "" {
		c.Poll = 30 * time.Second
	}
}

func (g gitSource) named() bool { return g.Repository != "" || g.URL != "" }

// revision is what is followed or pinned.
func (g gitSource) revision() string {
	if g.Ref != "" {
		return g.Ref
	}
	return g.Commit
}

func (g gitSource) remote() gitsource.Remote {
	return gitsource.Remote{
		URL: g.URL, CA: g.HTTPS.CA, Token: g.HTTPS.Token, Username: g.HTTPS.Username, Password: g.HTTPS.Password,
		Proxy:  http.ProxyFromEnvironment,
		SSHKey: g.SSH.Key, KnownHosts: g.SSH.KnownHosts,
		Limits: gitsource.Limits{Size: g.Limits.Size, Objects: g.Limits.Objects, Object: g.Limits.Object, Time: g.Limits.Time},
	}
}

// check refuses what is missing or contradicts itself.
func (g gitSource) check() []error {
	var errs []error
	refuse := func(bad bool, text string) {
		if bad {
			errs = append(errs, errors.New("source.git"+text))
		}
	}
	s := g.Signers
	refuse(g.Repository != "" && g.URL != "", ": name exactly one of repository (a local folder) and url")
	refuse((g.Ref == "") == (g.Commit == ""), ": name exactly one of ref (followed) and commit (pinned)")
	refuse(s.SSH == "" && s.OpenPGP == "" && s.Unsigned == "", ".signers: name a list, ssh or openpgp, or say unsigned: allow; there is no default for whose commits to trust")
	refuse(s.Unsigned != "" && s.Unsigned != "allow", ".signers.unsigned: allow, or nothing")
	refuse(s.Unsigned != "" && (s.SSH != "" || s.OpenPGP != ""), ".signers: unsigned: allow and a list contradict each other; remove one")
	refuse(s.Unsigned != "" && (s.Require != requireCommit || s.History != historyTip), ".signers: with unsigned: allow no signature is looked at; remove require and history")
	refuse(s.Require != requireCommit && s.Require != requireTag, ".signers.require: commit or tag")
	refuse(s.History != historyTip && s.History != historyEvery, ".signers.history: tip or every")
	refuse(s.Require == requireTag && g.Ref == "", ".signers.require: a tag is named by ref")
	refuse(g.URL == "" && (g.HTTPS != httpsRemote{} || g.SSH != sshRemote{} || g.Limits != defaultGit().Limits), ": https, ssh and limits are for a url")
	return errs
}
