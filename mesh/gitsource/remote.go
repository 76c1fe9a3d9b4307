package gitsource

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
	"unicode"

	"meshseal/snapshot"
)

// Remote is where a repository is fetched from, and by what credentials. Files
// are read again at every fetch, so that what is rotated needs no restart.
type Remote struct {
	// URL is https://host[:port]/path or ssh://user@host[:port]/path.
	URL string

	// CA is a file of PEM certificates that take the place of the system's
	// roots. HTTPS only.
	CA string
	// Token is a file; its content is sent as a bearer token. HTTPS only.
	Token string
	// Username and Password go together: a name, and a file. HTTPS only.
	Username, Password string
	// Proxy chooses an HTTP proxy; nil is none. HTTPS only.
	Proxy func(*http.Request) (*url.URL, error)

	// SSHKey is a file with a private key, not encrypted. SSH only.
	SSHKey string
	// KnownHosts is a file in the format of OpenSSH's known_hosts. A host that
	// is not in it is refused. SSH only.
	KnownHosts string

	Limits Limits
}

// Limits bound one fetch. All of them have to be set.
type Limits struct {
	Size    int64         // bytes that the remote may send
	Objects int64         // objects in what it sends
	Object  int64         // bytes of one object, unpacked
	Time    time.Duration // from the first connection to the last byte
}

// maxAdvertised bounds the list of refs that a remote sends, bytes: some half a
// million refs.
const maxAdvertised = 48 << 20

// check refuses what cannot be meant, and whatever could be read as an option,
// a program or another place.
func (r *Remote) check() (*url.URL, error) {
	u, err := checkURL(r.URL)
	if err != nil {
		return nil, err
	}
	ssh := r.SSHKey != "" || r.KnownHosts != ""
	web := r.CA != "" || r.Token != "" || r.Username != "" || r.Password != ""
	l := r.Limits
	switch {
	case u.Scheme == "https" && ssh:
		return nil, errors.New("an SSH key and known hosts are for ssh:// only")
	case u.Scheme == "ssh" && web:
		return nil, errors.New("a CA, a token, a user name and a password are for https:// only; the user of ssh:// stands in the URL")
	case u.Scheme == "ssh" && (r.SSHKey == "" || r.KnownHosts == ""):
		return nil, errors.New("ssh:// needs a key and a file of known hosts: ssh-keyscan writes one, and its keys have to be compared with what the host's owner publishes")
	case (r.Username == "") != (r.Password == ""):
		return nil, errors.New("a user name and a password go together")
	case r.Token != "" && r.Password != "":
		return nil, errors.New("a token or a password, not both")
	case l.Size <= 0 || l.Objects <= 0 || l.Object <= 0 || l.Time <= 0:
		return nil, errors.New("every limit has to be above zero")
	}
	return u, nil
}

func checkURL(text string) (*url.URL, error) {
	host, at, short := strings.Cut(text, ":")
	u, err := url.Parse(text)
	switch {
	case strings.HasPrefix(text, "-"), strings.Contains(text, "::"), strings.ContainsFunc(text, unicode.IsControl):
		return nil, fmt.Errorf("%.200q is not a URL", text)
	case short && strings.Contains(host, "@") && !strings.Contains(host, "/"):
		return nil, fmt.Errorf("%.200q: write it as a URL: ssh://%s/%s", text, host, strings.TrimPrefix(at, "/"))
	case err != nil: // which holds the URL, and could hold a password with it
		return nil, errors.New("what is given is not a URL")
	case u.Scheme != "https" && u.Scheme != "ssh":
		return nil, fmt.Errorf("%.200q: only https:// and ssh:// are fetched from; name a local folder as repository", u.Redacted())
	case u.User != nil && (u.Scheme == "https" || hasPassword(u)):
		return nil, fmt.Errorf("%.200q: credentials do not belong into a URL; name a file", u.Redacted())
	case u.Scheme == "ssh" && (u.User == nil || u.User.Username() == "" || strings.HasPrefix(u.User.Username(), "-")):
		return nil, fmt.Errorf("%.200q: name the user, such as ssh://git@host/path", text)
	case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") || strings.Contains(u.Host, ".."):
		return nil, fmt.Errorf("%.200q names no host", text)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("%.200q: a URL without ? and #", text)
	case len(u.Path) < 2 || path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") || strings.ContainsAny(u.Path, "'!\\ "):
		return nil, fmt.Errorf("%.200q: the path is not one of a repository", text)
	}
	return u, nil
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

// maxSecret bounds a file with a secret, bytes.
const maxSecret = 64 << 10

// readSecret reads a file that nobody but its owner may read.
func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others, or is no file: its mode is %v; run: chmod 600 %s", name, mode, name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = fmt.Errorf("%s has more than %d bytes", name, maxSecret)
	}
	return data, err
}

// readToken is a secret of one line.
func readToken(name string) (string, error) {
	data, err := readSecret(name)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" || strings.ContainsFunc(text, unicode.IsControl) {
		return "", fmt.Errorf("%s does not hold one line", name)
	}
	return text, nil
}

// bounded reads up to so many bytes; one more is snapshot.ErrSourceLimit.
type bounded struct {
	from io.Reader
	left int64
	max  int64
	what string
}

func newBounded(r io.Reader, limit int64, what string) *bounded {
	return &bounded{from: r, left: limit, max: limit, what: what}
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: %s has more than %d bytes", snapshot.ErrSourceLimit, b.what, b.max)
	}
	return n, err
}
