package snapshot

import (
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestContentThatIsRefused(t *testing.T) {
	foreign := spiffeid.RequireFromString("spiffe://other.test/web")
	for name, test := range map[string]struct {
		change func(c *Content)
		code   string
	}{
		"no proxies":                 {func(c *Content) { c.Proxies = nil }, "MESH_EMPTY"},
		"no workloads":               {func(c *Content) { c.Workloads = nil }, "MESH_EMPTY"},
		"nothing":                    {func(c *Content) { *c = Content{Mesh: c.Mesh} }, "MESH_EMPTY"},
		"no format":                  {func(c *Content) { c.Mesh.Format = "" }, "FORMAT_UNKNOWN"},
		"a later format":             {func(c *Content) { c.Mesh.Format = "v2" }, "FORMAT_UNKNOWN"},
		"no mesh name":               {func(c *Content) { c.Mesh.Name = "" }, "CONTENT_INVALID"},
		"mesh name upper case":       {func(c *Content) { c.Mesh.Name = "Shop" }, "CONTENT_INVALID"},
		"mesh name with a slash":     {func(c *Content) { c.Mesh.Name = "a/b" }, "CONTENT_INVALID"},
		"mesh name begins with -":    {func(c *Content) { c.Mesh.Name = "-a" }, "CONTENT_INVALID"},
		"mesh name too long":         {func(c *Content) { c.Mesh.Name = strings.Repeat("a", 254) }, "CONTENT_INVALID"},
		"no trust domain":            {func(c *Content) { c.Mesh.TrustDomains = nil }, "CONTENT_INVALID"},
		"zero trust domain":          {func(c *Content) { c.Mesh.TrustDomains = append(c.Mesh.TrustDomains, spiffeid.TrustDomain{}) }, "CONTENT_INVALID"},
		"trust domain twice":         {func(c *Content) { c.Mesh.TrustDomains = append(c.Mesh.TrustDomains, c.Mesh.TrustDomains[0]) }, "CONTENT_INVALID"},
		"lifetime 0":                 {func(c *Content) { c.Mesh.StatementLifetime = 0 }, "CONTENT_INVALID"},
		"lifetime below 0":           {func(c *Content) { c.Mesh.StatementLifetime = -time.Second }, "CONTENT_INVALID"},
		"lifetime too long":          {func(c *Content) { c.Mesh.StatementLifetime = MaxStatementLifetime + time.Second }, "CONTENT_INVALID"},
		"lifetime with a fraction":   {func(c *Content) { c.Mesh.StatementLifetime += time.Millisecond }, "CONTENT_INVALID"},
		"grace below 0":              {func(c *Content) { c.Mesh.Grace = -time.Second }, "CONTENT_INVALID"},
		"grace too long":             {func(c *Content) { c.Mesh.Grace = MaxGrace + time.Second }, "CONTENT_INVALID"},
		"grace with a fraction":      {func(c *Content) { c.Mesh.Grace += time.Microsecond }, "CONTENT_INVALID"},
		"no policy path":             {func(c *Content) { c.Mesh.PolicyPath = "" }, "CONTENT_INVALID"},
		"no SDS cluster":             {func(c *Content) { c.Mesh.SDSCluster = "" }, "CONTENT_INVALID"},
		"proxy twice":                {func(c *Content) { c.Proxies[0].Name = "web" }, "CONTENT_INVALID"},
		"proxy name":                 {func(c *Content) { c.Proxies[0].Name = "../web" }, "CONTENT_INVALID"},
		"proxy without ID":           {func(c *Content) { c.Proxies[0].ID = spiffeid.ID{} }, "CONTENT_INVALID"},
		"proxy ID without path":      {func(c *Content) { c.Proxies[0].ID = id("") }, "CONTENT_INVALID"},
		"proxy ID with digest":       {func(c *Content) { c.Proxies[0].ID = id("/web/sha256/" + image("x").Hex()) }, "CONTENT_INVALID"},
		"proxy ID reserved":          {func(c *Content) { c.Proxies[0].ID = id("/spire/agent") }, "CONTENT_INVALID"},
		"two proxies with one ID":    {func(c *Content) { c.Proxies[0].ID = c.Proxies[1].ID }, "CONTENT_INVALID"},
		"proxy of a foreign domain":  {func(c *Content) { c.Proxies[1].ID = foreign }, "CONTENT_INVALID"},
		"proxy of no workload":       {func(c *Content) { c.Proxies[1].Workload = "nobody" }, "CONTENT_INVALID"},
		"resource twice":             {func(c *Content) { p := &c.Proxies[1]; p.Entries = append(p.Entries, p.Entries[0]) }, "CONTENT_INVALID"},
		"resource without name":      {func(c *Content) { c.Proxies[1].Entries[0].Name = "" }, "CONTENT_INVALID"},
		"resource name not UTF-8":    {func(c *Content) { c.Proxies[1].Entries[0].Name = "\xff" }, "CONTENT_INVALID"},
		"resource name with control": {func(c *Content) { c.Proxies[1].Entries[0].Name = "a\x00b" }, "CONTENT_INVALID"},
		"resource name too long":     {func(c *Content) { c.Proxies[1].Entries[0].Name = strings.Repeat("a", 4097) }, "CONTENT_INVALID"},
		"resource name reserved":     {func(c *Content) { c.Proxies[1].Entries[0].Name = "meshseal-seal" }, "CONTENT_INVALID"},
		"resource of another type": {func(c *Content) {
			c.Proxies[1].Entries[0].Type = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
		}, "CONTENT_INVALID"},
		"resource missing":             {func(c *Content) { delete(c.Resources, c.Proxies[1].Entries[0].Hash) }, "RESOURCE_MISMATCH"},
		"resource empty":               {func(c *Content) { c.Resources[c.Proxies[1].Entries[0].Hash] = nil }, "RESOURCE_MISMATCH"},
		"resource with wrong bytes":    {func(c *Content) { c.Resources[c.Proxies[1].Entries[0].Hash] = []byte("x") }, "RESOURCE_MISMATCH"},
		"resource unused":              {func(c *Content) { c.Resources[image("more")] = []byte("more") }, "RESOURCE_MISMATCH"},
		"workload twice":               {func(c *Content) { c.Workloads[1].Name = "orders" }, "CONTENT_INVALID"},
		"workload name":                {func(c *Content) { c.Workloads[1].Name = "we b" }, "CONTENT_INVALID"},
		"two workloads with one ID":    {func(c *Content) { c.Workloads[0].ID = c.Workloads[1].ID }, "CONTENT_INVALID"},
		"workload with digest":         {func(c *Content) { c.Workloads[0].ID = id("/a/sha256/" + image("x").Hex()) }, "CONTENT_INVALID"},
		"workload of foreign domain":   {func(c *Content) { c.Workloads[0].ID = foreign }, "CONTENT_INVALID"},
		"workload policy with control": {func(c *Content) { c.Workloads[0].Policy = "a/b\n" }, "CONTENT_INVALID"},
		"workload policy too long":     {func(c *Content) { c.Workloads[0].Policy = strings.Repeat("a", 254) }, "CONTENT_INVALID"},
		"image set empty":              {func(c *Content) { c.Workloads[0].Allowed = []ImageSet{{}} }, "CONTENT_INVALID"},
		"image twice in a set":         {func(c *Content) { c.Workloads[0].Allowed = []ImageSet{{image("a"), image("a")}} }, "CONTENT_INVALID"},
		"image set twice":              {func(c *Content) { c.Workloads[0].Allowed = []ImageSet{{image("a")}, {image("a")}} }, "CONTENT_INVALID"},
		"image zero":                   {func(c *Content) { c.Workloads[0].Allowed = []ImageSet{{Digest{}}} }, "CONTENT_INVALID"},
		"image zero in a set":          {func(c *Content) { c.Workloads[0].Allowed = []ImageSet{{image("a"), {}}} }, "CONTENT_INVALID"},
		"revoked zero":                 {func(c *Content) { c.Workloads[0].Revoked = []Digest{{}} }, "CONTENT_INVALID"},
		"revoked twice":                {func(c *Content) { c.Workloads[0].Revoked = []Digest{image("a"), image("a")} }, "CONTENT_INVALID"},
		"policy twice":                 {func(c *Content) { c.Policies = append(c.Policies, c.Policies[0]) }, "CONTENT_INVALID"},
		"policy outside":               {func(c *Content) { c.Policies[0].Path = "../x.rego" }, "CONTENT_INVALID"},
		"policy absolute":              {func(c *Content) { c.Policies[0].Path = "/x.rego" }, "CONTENT_INVALID"},
		"policy without path":          {func(c *Content) { c.Policies[0].Path = "" }, "CONTENT_INVALID"},
		"policy is the folder":         {func(c *Content) { c.Policies[0].Path = "." }, "CONTENT_INVALID"},
		"waiver twice":                 {func(c *Content) { c.Waivers = append(c.Waivers, c.Waivers[0]) }, "CONTENT_INVALID"},
		"waiver without reason":        {func(c *Content) { c.Waivers[0].Reason = "" }, "CONTENT_INVALID"},
		"waiver without end":           {func(c *Content) { c.Waivers[0].Until = time.Time{} }, "CONTENT_INVALID"},
		"waiver end with fraction":     {func(c *Content) { c.Waivers[0].Until = now.Add(time.Millisecond) }, "CONTENT_INVALID"},
		"waiver with a separator":      {func(c *Content) { c.Waivers[0].Rule = "A\x00B" }, "CONTENT_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			c := shop(t)
			test.change(&c)
			_, err := New(c, testCommit)
			wantCode(t, err, test.code)
		})
	}
}

// What a proxy and its application share, and what an empty list means, is
// allowed.
func TestContentThatIsAccepted(t *testing.T) {
	for name, change := range map[string]func(c *Content){
		"no policies":                 func(c *Content) { c.Policies = nil },
		"no waivers":                  func(c *Content) { c.Waivers = nil },
		"an empty policy file":        func(c *Content) { c.Policies[0].Data = nil },
		"a proxy without a workload":  func(c *Content) { c.Proxies[0].Workload = "" },
		"a workload that may not run": func(c *Content) { c.Workloads[0].Allowed = nil },
		"no grace":                    func(c *Content) { c.Mesh.Grace = 0 },
		"two trust domains": func(c *Content) {
			c.Mesh.TrustDomains = append(c.Mesh.TrustDomains, spiffeid.RequireTrustDomainFromString("b.test"), spiffeid.RequireTrustDomainFromString("a.test"))
		},
		"resource names with marks": func(c *Content) { c.Proxies[1].Entries[0].Name = "outbound|80|<&>\"é\u2028" },
	} {
		t.Run(name, func(t *testing.T) {
			c := shop(t)
			change(&c)
			d := build(t, c, testCommit)
			if _, err := Parse(d.Bytes()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCommitThatIsRefused(t *testing.T) {
	for name, change := range map[string]func(c *Commit){
		"no repository":         func(c *Commit) { c.Repository = "" },
		"repository of control": func(c *Commit) { c.Repository = "a\nb" },
		"no hash":               func(c *Commit) { c.Hash = "" },
		"short hash":            func(c *Commit) { c.Hash = c.Hash[:39] },
		"hash in upper case":    func(c *Commit) { c.Hash = strings.ToUpper(c.Hash) },
		"a ref":                 func(c *Commit) { c.Hash = "refs/heads/main" },
		"no time":               func(c *Commit) { c.Time = time.Time{} },
		"a time before 1970":    func(c *Commit) { c.Time = time.Unix(-1, 0) },
		"a time after 9999":     func(c *Commit) { c.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			at := testCommit
			change(&at)
			_, err := New(shop(t), at)
			wantCode(t, err, "STATEMENT_MALFORMED")
		})
	}
}

// The time zone and the fraction of the commit's time change nothing.
func TestCommitTimeIsUTC(t *testing.T) {
	at := testCommit
	at.Time = at.Time.In(time.FixedZone("east", 3600)).Add(999 * time.Millisecond)
	if a, b := build(t, shop(t), testCommit), build(t, shop(t), at); string(a.Bytes()) != string(b.Bytes()) {
		t.Error("the time zone changes the file")
	}
}
