package snapshot

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

func TestAttestationThatIsRefused(t *testing.T) {
	other := spiffeid.RequireFromString("spiffe://partner.test/node")
	kubernetes := func(c *Content) *KubernetesRegistration { return c.Workloads[orders].Registration.Kubernetes }
	for name, test := range map[string]struct {
		change func(c *Content)
		says   string
	}{
		"an OID that is none":    {func(c *Content) { c.Mesh.Evidence.ExtensionOID = "1" }, "object identifier"},
		"an OID of X.500":        {func(c *Content) { c.Mesh.Evidence.ExtensionOID = "2.5.29.17" }, "X.500"},
		"an audience too long":   {func(c *Content) { c.Mesh.Evidence.JWT.Audience = strings.Repeat("a", identity.MaxAudience+1) }, "audience"},
		"a JWT without header":   {func(c *Content) { c.Mesh.Evidence.JWT.Header = "" }, "header"},
		"a header in upper case": {func(c *Content) { c.Mesh.Evidence.JWT.Header = "X-JWT" }, "header"},
		"a JWT without audience": {func(c *Content) { c.Mesh.Evidence.JWT.Audience = "" }, "audience"},
		"a JWT of any age":       {func(c *Content) { c.Mesh.Evidence.JWT.MaxAge = 0 }, "age"},
		"a JWT that is too old":  {func(c *Content) { c.Mesh.Evidence.JWT.MaxAge = MaxJWTMaxAge + time.Second }, "age"},
		"an age below zero":      {func(c *Content) { c.Mesh.Evidence.JWT.MaxAge = -time.Second }, "age"},
		"an age with a fraction": {func(c *Content) { c.Mesh.Evidence.JWT.MaxAge += time.Millisecond }, "age"},
		"unknown evidence":       {func(c *Content) { c.Workloads[orders].Evidence = []EvidenceKind{"hint"} }, `"hint"`},
		"evidence twice": {func(c *Content) {
			c.Workloads[orders].Evidence = []EvidenceKind{identity.SPIREEntry, identity.SPIREEntry}
		}, "twice"},
		"evidence of an extension without OID": {func(c *Content) { c.Mesh.Evidence.ExtensionOID = "" }, "x509-extension"},
		"evidence of a JWT without settings":   {func(c *Content) { c.Mesh.Evidence.JWT = JWTSettings{} }, "jwt-svid"},
		"unproven and evidence":                {func(c *Content) { c.Workloads[web].Evidence = []EvidenceKind{identity.SPIREEntry} }, "unproven and demands"},
		"unproven without waiver":              {func(c *Content) { c.Waivers = c.Waivers[:1] }, "no waiver"},
		"a waiver for what is proven":          {func(c *Content) { c.Workloads[web].Unproven = false }, "not unproven"},
		"a waiver for no workload":             {func(c *Content) { c.Waivers[unprovenOfWeb].Workload = "nobody" }, `"nobody"`},
		"a waiver for workload and resource":   {func(c *Content) { c.Waivers[unprovenOfWeb].Resource = "health" }, "too"},
		"a waiver for workload and proxy":      {func(c *Content) { c.Waivers[unprovenOfWeb].Proxy = "web" }, "too"},
		"a waiver for nothing":                 {func(c *Content) { c.Waivers[unprovenOfWeb].Workload = "" }, "proxy"},
		"two waivers for a workload":           {func(c *Content) { c.Waivers = append(c.Waivers, c.Waivers[unprovenOfWeb]) }, "twice"},
		"another rule waived for a workload":   {func(c *Content) { c.Waivers[unprovenOfWeb].Rule = "LISTENER_OPEN" }, "LISTENER_OPEN"},
		"unproven waived for a resource":       {func(c *Content) { c.Waivers[0].Rule = UnprovenRule }, UnprovenRule},
		"a workload's waiver with a separator": {func(c *Content) { c.Waivers[unprovenOfWeb].Workload = "web\x00a" }, "workload"},
		"a proxy's set without image":          {func(c *Content) { c.Proxies[edge].Allowed[0] = nil }, "at least one"},
		"a proxy's image twice":                {func(c *Content) { c.Proxies[edge].Allowed[0] = ImageSet{image("a"), image("a")} }, "twice"},
		"a proxy's set twice":                  {func(c *Content) { c.Proxies[edge].Allowed[0] = c.Proxies[edge].Allowed[1] }, "twice"},
		"a proxy's image zero":                 {func(c *Content) { c.Proxies[edge].Allowed[0] = ImageSet{{}} }, "zero"},
		"a proxy without what to register":     {func(c *Content) { c.Proxies[edge].Allowed = nil }, "no digest"},
		"a proxy with its workload's ID":       {func(c *Content) { c.Proxies[edge].ID, c.Proxies[1].ID = id("/web"), id("/web-2") }, "the workload"},
		"no parent":                            {func(c *Content) { c.Workloads[orders].Registration.Parents = nil }, "no parent"},
		"a parent twice":                       {func(c *Content) { c.Workloads[orders].Registration.Parents[1] = id("/nodes/a") }, "twice"},
		"a parent that is the trust domain":    {func(c *Content) { c.Workloads[orders].Registration.Parents[1] = id("") }, "parent"},
		"a parent of nothing":                  {func(c *Content) { c.Workloads[orders].Registration.Parents[1] = spiffeid.ID{} }, "parent"},
		"a parent of another trust domain":     {func(c *Content) { c.Workloads[orders].Registration.Parents[1] = other }, "another trust domain"},
		"a parent that is too long":            {func(c *Content) { c.Workloads[orders].Registration.Parents[1] = id("/" + strings.Repeat("a", 2048)) }, "parent"},
		"federation with itself": {func(c *Content) {
			c.Workloads[orders].Registration.FederatesWith[0] = c.Workloads[orders].ID.TrustDomain()
		}, "federates"},
		"federation with a stranger": {func(c *Content) {
			c.Workloads[orders].Registration.FederatesWith[0] = spiffeid.RequireTrustDomainFromString("else.test")
		}, "federates"},
		"federation twice": {func(c *Content) {
			g := c.Workloads[orders].Registration
			g.FederatesWith = append(g.FederatesWith, g.FederatesWith[0])
		}, "twice"},
		"a lifetime below zero":      {func(c *Content) { c.Workloads[orders].Registration.X509TTL = -time.Second }, "lifetime"},
		"a lifetime with a fraction": {func(c *Content) { c.Workloads[orders].Registration.JWTTTL = 1500 * time.Millisecond }, "lifetime"},
		"a lifetime too long":        {func(c *Content) { c.Workloads[orders].Registration.JWTTTL = MaxSVIDTTL + time.Second }, "lifetime"},
		"neither kind":               {func(c *Content) { c.Workloads[web].Registration.Unix = nil }, "both or neither"},
		"both kinds":                 {func(c *Content) { c.Workloads[web].Registration.Kubernetes = &KubernetesRegistration{} }, "both or neither"},
		"a relative program":         {func(c *Content) { c.Workloads[web].Registration.Unix.Path = "web" }, "path"},
		"a user that is none":        {func(c *Content) { c.Workloads[web].Registration.Unix.User = "uid:-1" }, "user"},
		"a process of two programs":  {func(c *Content) { c.Workloads[web].Allowed[0] = ImageSet{image("a"), image("b")} }, "one program"},
		"a namespace that is none":   {func(c *Content) { kubernetes(c).Namespace = "a.b" }, "namespace"},
		"a service account of none":  {func(c *Content) { kubernetes(c).ServiceAccount = "" }, "service account"},
		"no sets":                    {func(c *Content) { kubernetes(c).Sets = nil }, "allows 1"},
		"a set too many":             {func(c *Content) { kubernetes(c).Sets = append(kubernetes(c).Sets, kubernetes(c).Sets[0]) }, "allows 1"},
		"a set that is not allowed":  {func(c *Content) { kubernetes(c).Sets[0][0].Digest = image("else") }, "other images"},
		"a set that lacks an image":  {func(c *Content) { kubernetes(c).Sets[0] = kubernetes(c).Sets[0][:1] }, "other images"},
		"an image without name":      {func(c *Content) { kubernetes(c).Sets[0][0].Repository = "" }, "name of an image"},
		"an image with a tag":        {func(c *Content) { kubernetes(c).Sets[0][0].Repository = "registry.example/orders:1" }, "name of an image"},
		"only init containers":       {func(c *Content) { kubernetes(c).Sets[0][0].Init = true }, "only init"},
	} {
		t.Run(name, func(t *testing.T) {
			c := attested(t)
			test.change(&c)
			_, err := New(c, testCommit)
			wantCode(t, err, "CONTENT_INVALID")
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
		})
	}
}

func TestAttestationThatIsAccepted(t *testing.T) {
	for name, change := range map[string]func(c *Content){
		"all of it":    func(*Content) {},
		"only a chain": func(c *Content) { c.Mesh.Evidence = EvidenceSettings{Chain: true}; c.Workloads[orders].Evidence = nil },
		"spire-entry needs no setting": func(c *Content) {
			c.Mesh.Evidence = EvidenceSettings{}
			c.Workloads[orders].Evidence = []EvidenceKind{identity.SPIREEntry}
		},
		"an agent as parent":           func(c *Content) { c.Workloads[orders].Registration.Parents[0] = id("/spire/agent/join_token/x") },
		"a registration of no images":  func(c *Content) { c.Workloads[web].Allowed = nil },
		"a proxy without registration": func(c *Content) { c.Proxies[edge].Registration = nil },
		"a waiver that is over": func(c *Content) { // judged when it is verified, not when it is built
			c.Waivers[unprovenOfWeb].Until = now.Add(-time.Hour)
		},
		"a proxy's digest with its workload's ID": func(c *Content) { c.Proxies[1].Allowed = []ImageSet{{image("a"), image("b")}} },
	} {
		t.Run(name, func(t *testing.T) {
			c := attested(t)
			change(&c)
			d := build(t, c, testCommit)
			if _, err := Parse(d.Bytes()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A good signature does not excuse attestation that is not in the one form.
func TestSignedAttestationNotInTheOneForm(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	good := take(t, build(t, attested(t), testCommit).Bytes())
	// Its leaves begin: attestation of edge, orders and web, evidence, mesh.
	set := func(i int, leaf []byte) func(*parts) { return func(p *parts) { p.leaves[i] = leaf } }
	insert := func(i int, leaf []byte) func(*parts) {
		return func(p *parts) { p.leaves = slices.Insert(p.leaves, i, leaf) }
	}
	unix := str([]byte{1}, "/opt/web/web", "uid:1000", 1, "spiffe://shop.test/nodes/a", 0, uint64(0), uint64(0))
	for name, test := range map[string]struct {
		change func(*parts)
		code   string
	}{
		"the one form":              {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 0, unix)))), ""},
		"about nobody":              {insert(3, str("attestation", "workload\x00zoe", string(str([]byte{1}, 0, []byte{0})))), "FILE_MALFORMED"},
		"about a proxy of none":     {insert(1, str("attestation", "proxy\x00web-2", string(str(0, []byte{0})))), "FILE_MALFORMED"},
		"about neither":             {insert(0, str("attestation", "mesh\x00shop", "")), "FILE_MALFORMED"},
		"a name of one part":        {insert(0, str("attestation", "edge", string(str(0, []byte{0})))), "FILE_MALFORMED"},
		"a name of three parts":     {insert(3, str("attestation", "workload\x00web\x00", string(str([]byte{1}, 0, unix)))), "FILE_MALFORMED"},
		"says nothing":              {insert(1, str("attestation", "proxy\x00web", string(str(0, []byte{0})))), "FILE_MALFORMED"},
		"twice":                     {func(p *parts) { p.leaves = slices.Insert(p.leaves, 0, p.leaves[0]) }, "FILE_MALFORMED"},
		"out of order":              {func(p *parts) { p.leaves[1], p.leaves[2] = p.leaves[2], p.leaves[1] }, "FILE_MALFORMED"},
		"behind the mesh":           {func(p *parts) { p.leaves[3], p.leaves[4] = p.leaves[4], p.leaves[3] }, "FILE_MALFORMED"},
		"unproven of 2":             {set(2, str("attestation", "workload\x00web", string(str([]byte{2}, 0, unix)))), "FILE_MALFORMED"},
		"an unknown registration":   {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 0, []byte{3})))), "FILE_MALFORMED"},
		"bytes behind":              {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 0, unix, []byte{0})))), "FILE_MALFORMED"},
		"bytes that are missing":    {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 0, unix[:len(unix)-1])))), "FILE_MALFORMED"},
		"evidence out of order":     {set(2, str("attestation", "workload\x00web", string(str([]byte{0}, 2, "x509-extension", "jwt-svid", unix)))), "CONTENT_INVALID"},
		"a count that lies":         {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 1<<30, unix)))), "FILE_MALFORMED"},
		"a parent that is none":     {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 0, []byte{1}, "/a", "b", 1, "SPIFFE://shop.test/a", 0, uint64(0), uint64(0))))), "FILE_MALFORMED"},
		"a lifetime that overflows": {set(2, str("attestation", "workload\x00web", string(str([]byte{1}, 0, []byte{1}, "/a", "b", 1, "spiffe://shop.test/a", 0, uint64(1)<<63, uint64(0))))), "FILE_MALFORMED"},
		"evidence that is empty":    {set(3, str("evidence", "shop", string(str("", "", "", uint64(0), []byte{0})))), "CONTENT_INVALID"},
		"evidence of another mesh":  {set(3, str("evidence", "mall", string(str("1.2", "", "", uint64(0), []byte{0})))), "FILE_MALFORMED"},
		"evidence with bytes":       {set(3, str("evidence", "shop", string(str("1.2", "", "", uint64(0), []byte{0, 0})))), "FILE_MALFORMED"},
		"evidence twice":            {func(p *parts) { p.leaves = slices.Insert(p.leaves, 3, p.leaves[3]) }, "FILE_MALFORMED"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parts{leaves: slices.Clone(good.leaves), resources: good.resources}
			test.change(&p)
			_, err := Open(forge(t, k, p, func(*Statement) {}), tr, now)
			if test.code == "" && err != nil {
				t.Fatal(err)
			}
			wantCode(t, err, test.code)
		})
	}
}

// An evidence leaf that says nothing is refused also where nothing demands any.
func TestEmptyEvidenceLeafIsRefused(t *testing.T) {
	k := newKey(t, Ed25519)
	p := take(t, build(t, shop(t), testCommit).Bytes())
	p.leaves = slices.Insert(p.leaves, 0, str("evidence", "shop", string(str("", "", "", uint64(0), []byte{0}))))
	_, err := Open(forge(t, k, p, func(*Statement) {}), trust(t, 1, k), now)
	wantCode(t, err, "FILE_MALFORMED")
}

func TestForms(t *testing.T) {
	long := strings.Repeat("a", 254)
	for name, test := range map[string]struct {
		parse     func(string) (string, error)
		good, bad []string
	}{
		"repository": {ParseRepository,
			[]string{"orders", "shop/orders", "registry.example/shop/orders", "registry.example:5000/a/b", "localhost/a", "Registry.Example/a", "[2001:db8::1]:5000/a", "127.0.0.1/a", "a.b_c__d-e--f"},
			[]string{"", "Orders", "registry.example/Orders", "registry.example/orders:1", "orders@sha256", "/orders", "orders/", "a//b", "a..b", "a___b", "-a", "a-", "a b", "https://a/b", "registry.example:x/a", "a/b\n", "é/a", long + "aa"},
		},
		"OID": {ParseOID,
			[]string{"1.3.6.1.4.1.55555.1", "2.999.1", "0.39.1", "1.39.1", "2.2147483647.0"},
			[]string{"", "1", "1.39", "2.5.29.17", "3.1.1", "1.40.1", "0.100.1", "1.2.", ".1.2", "1..2", "01.2", "1.02", "1.2.-3", "1.+2", "1.2.2147483648", "1.2.3 ", "1.a", "1." + strings.Repeat("1.", 200) + "1"},
		},
		"header": {ParseHeader,
			[]string{"x-spiffe-jwt-svid", "authorization", "a"},
			[]string{"", "X-A", "x_a", ":path", "x a", "-a", "x-a\n", long},
		},
		"program": {ParseProgram,
			[]string{"/opt/orders/orders", "/a", "/a b/ü"},
			[]string{"", "/", "a", "./a", "/a/", "/a/../b", "/a//b", "/a\x00", "/a\nb", "\xff", "/" + strings.Repeat("a", 4096)},
		},
		"user": {ParseUser,
			[]string{"orders", "uid:0", "uid:4294967295", "DOMAIN\\orders", "orders@corp", "_svc-1"},
			[]string{"", "uid:", "uid:-1", "uid:01", "uid:+1", "uid:4294967296", "uid:x", "gid:1", "a:b", "a b", "a/b", "a\x00", long},
		},
		"namespace": {ParseNamespace,
			[]string{"shop", "a", "a-1", strings.Repeat("a", 63)},
			[]string{"", "Shop", "a.b", "-a", "a-", "a_b", strings.Repeat("a", 64), "a\n"},
		},
		"service account": {ParseServiceAccount,
			[]string{"orders", "a.b-c", "1"},
			[]string{"", "Orders", "a..b", ".a", "a.", "a_b", "a/b", long, "a\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range test.good {
				if got, err := test.parse(s); err != nil || got != s {
					t.Errorf("%q is refused: %v", s, err)
				}
			}
			for _, s := range test.bad {
				if got, err := test.parse(s); err == nil || got != "" {
					t.Errorf("%q is taken as %q", s, got)
				} else if len(err.Error()) > 300 {
					t.Errorf("%q: a message of %d bytes", clip(s), len(err.Error()))
				}
			}
		})
	}
}
