package doctor

import (
	"slices"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/mesh/bootstrap"
)

func TestServerNamesOfOneServer(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	uri := func(m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
		return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
	}
	exact := func(s string) *tlsv3.SubjectAltNameMatcher {
		return uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}})
	}
	prefix := func(s string) *tlsv3.SubjectAltNameMatcher {
		return uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}})
	}
	anyCase := exact("spiffe://shop.test/meshseal")
	anyCase.Matcher.IgnoreCase = true
	dns := exact("spiffe://shop.test/meshseal")
	dns.SanType = tlsv3.SubjectAltNameMatcher_DNS
	for name, c := range map[string]struct {
		names []*tlsv3.SubjectAltNameMatcher
		want  bool
	}{
		"a base ID":                     {[]*tlsv3.SubjectAltNameMatcher{exact("spiffe://shop.test/meshseal")}, true},
		"an ID with a digest":           {[]*tlsv3.SubjectAltNameMatcher{exact("spiffe://shop.test/meshseal/sha256/" + digest)}, true},
		"any digest":                    {[]*tlsv3.SubjectAltNameMatcher{prefix("spiffe://shop.test/meshseal/sha256/")}, true},
		"a base ID or any digest":       {[]*tlsv3.SubjectAltNameMatcher{exact("spiffe://shop.test/meshseal"), prefix("spiffe://shop.test/meshseal/sha256/")}, true},
		"no name":                       {nil, false},
		"two servers":                   {[]*tlsv3.SubjectAltNameMatcher{exact("spiffe://shop.test/meshseal"), exact("spiffe://shop.test/web")}, false},
		"any digest of another":         {[]*tlsv3.SubjectAltNameMatcher{exact("spiffe://shop.test/meshseal"), prefix("spiffe://shop.test/web/sha256/")}, false},
		"all that begins so":            {[]*tlsv3.SubjectAltNameMatcher{prefix("spiffe://shop.test/meshseal")}, false},
		"all below it":                  {[]*tlsv3.SubjectAltNameMatcher{prefix("spiffe://shop.test/meshseal/")}, false},
		"the whole trust domain":        {[]*tlsv3.SubjectAltNameMatcher{prefix("spiffe://shop.test/sha256/")}, false},
		"a prefix behind a digest":      {[]*tlsv3.SubjectAltNameMatcher{prefix("spiffe://shop.test/a/sha256/" + digest + "/sha256/")}, false},
		"an empty prefix":               {[]*tlsv3.SubjectAltNameMatcher{prefix("")}, false},
		"only the prefix of a URI":      {[]*tlsv3.SubjectAltNameMatcher{prefix("/sha256/")}, false},
		"an ID in any case":             {[]*tlsv3.SubjectAltNameMatcher{anyCase}, false},
		"a DNS name":                    {[]*tlsv3.SubjectAltNameMatcher{dns}, false},
		"something that is no ID":       {[]*tlsv3.SubjectAltNameMatcher{exact("https://shop.test/meshseal")}, false},
		"a pattern":                     {[]*tlsv3.SubjectAltNameMatcher{uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: "meshseal"}})}, false},
		"a good one and one by pattern": {[]*tlsv3.SubjectAltNameMatcher{exact("spiffe://shop.test/meshseal"), uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: "l"}})}, false},
	} {
		if got := oneServer(c.names); got != c.want {
			t.Errorf("%s: one server is %v", name, got)
		}
	}
}

// What meshseal writes itself, for an ID of either kind, is sound.
func TestBootstrapOfEitherServerIDIsSound(t *testing.T) {
	for _, id := range []string{"spiffe://shop.test/meshseal", "spiffe://shop.test/meshseal/sha256/" + strings.Repeat("ab", 32)} {
		p, config := sound(t)
		config.ServerID = spiffeid.RequireFromString(id)
		var err error
		if p.Bootstrap, err = bootstrap.New(*config); err != nil {
			t.Fatal(err)
		}
		found := slices.DeleteFunc(Examine(p).Findings, func(f Finding) bool { return f.Code == "GUARD_MODULE" })
		if len(found) != 0 {
			t.Errorf("%s: findings %+v", id, found)
		}
	}
}
