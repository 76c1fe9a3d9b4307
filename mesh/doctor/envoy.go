package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// Version is a release of Envoy.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

func (v Version) before(o Version) bool {
	if v.Major != o.Major {
		return v.Major < o.Major
	}
	if v.Minor != o.Minor {
		return v.Minor < o.Minor
	}
	return v.Patch < o.Patch
}

// versionTimeout is how long Envoy may take to say its version.
const versionTimeout = 20 * time.Second

// versionLine is what `envoy --version` prints: commit, version, state, kind of
// build, TLS library.
var versionLine = regexp.MustCompile(`version: [0-9a-f]{7,64}/([0-9]{1,3})\.([0-9]{1,4})\.([0-9]{1,4})(-[0-9A-Za-z.]+)?/`)

// AskVersion asks an Envoy program for its version.
func AskVersion(ctx context.Context, envoy string) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, envoy, "--version").Output()
	if err != nil {
		return Version{}, fmt.Errorf("%s --version: %w", envoy, err)
	}
	return parseVersion(string(out))
}

// parseVersion refuses what is no release: which holes a build of one's own has
// nobody here knows.
func parseVersion(text string) (Version, error) {
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("no version in what it says: %.200q", text)
	}
	if m[4] != "" {
		return Version{}, fmt.Errorf("%s.%s.%s%s is not a release", m[1], m[2], m[3], m[4])
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // digits, by the expression
	}
	return Version{n[0], n[1], n[2]}, nil
}

// guardSince is the first release that can load a config validator as a dynamic
// module.
var guardSince = Version{1, 40, 0}

// abis says which version of its dynamic module interface a minor release has.
var abis = map[[2]int]string{{1, 40}: "v0.2.0"}

// hole is a defect of Envoy by which a request gets past ext_authz, or is not
// the request that ext_authz was asked about, or by which a request ends the
// process that asks it. fixed has the first release of each minor line without
// it; the lines above the highest were made later. Older lines than the lowest
// have it: nobody mends them any more.
type hole struct {
	id, what string
	fixed    []Version
}

// holes are those that Envoy's project has published, newest first. Sources:
// https://github.com/envoyproxy/envoy/security/advisories and the change logs of
// the releases named.
var holes = []hole{
	{"CVE-2026-73547", "a CONNECT request without a path ends the process when ext_authz is asked", q3of2026},
	{"CVE-2026-73551", "a dot segment with parameters (/..;/) is not normalized: ext_authz and the backend see other paths", q3of2026},
	{"CVE-2026-73511", "parameters of path segments are left in where they should be stripped: ext_authz and the route see other paths", q3of2026},
	{"CVE-2026-73548", "what follows an upgrade request can become a request of its own to the backend, which nobody asked ext_authz about", q3of2026},
	{"CVE-2026-73552", "a safe_regex does not match a header that is not UTF-8, so that a rule which forbids by it lets it through", q3of2026},
	{"CVE-2024-23324", "a client can make the question to ext_authz invalid, which is an allow where failure_mode_allow is set", []Version{{1, 26, 7}, {1, 27, 3}, {1, 28, 1}, {1, 29, 1}}},
	{"CVE-2021-32777", "of a header with several values ext_authz is told only the last", []Version{{1, 16, 5}, {1, 17, 4}, {1, 18, 4}, {1, 19, 1}}},
}

// q3of2026 is Envoy's security release of 26 August 2026.
var q3of2026 = []Version{{1, 36, 10}, {1, 37, 6}, {1, 38, 4}, {1, 39, 1}}

// open reports whether a release has the hole.
func (h hole) open(v Version) bool {
	for _, f := range h.fixed {
		if v.Major == f.Major && v.Minor == f.Minor {
			return v.before(f)
		}
	}
	return v.before(h.fixed[len(h.fixed)-1])
}

// newestKnown is the newest minor line that this release of meshseal knows
// anything about.
var newestKnown = Version{1, 40, 0}
