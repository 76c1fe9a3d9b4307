package registration

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/spire"
	"meshseal/snapshot"
)

// now is the time of the tests: a value, so that nothing expires.
var now = time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)

func image(name string) identity.Digest { return identity.SumDigest([]byte(name)) }

func id(path string) spiffeid.ID { return spiffeid.RequireFromString("spiffe://shop.test" + path) }

// content is a Content in memory.
type content struct {
	mesh      string
	proxies   []snapshot.Proxy
	workloads []snapshot.Workload
}

func (c content) Mesh() snapshot.Mesh            { return snapshot.Mesh{Name: c.mesh} }
func (c content) Proxies() []snapshot.Proxy      { return c.proxies }
func (c content) Workloads() []snapshot.Workload { return c.workloads }

func set(images ...identity.Digest) snapshot.ImageSet { return images }

// process is a registration of a program file.
func process(parents ...string) *snapshot.Registration {
	r := &snapshot.Registration{Unix: &snapshot.UnixRegistration{Path: "/opt/orders", User: "orders"}, X509TTL: time.Minute}
	for _, p := range parents {
		r.Parents = append(r.Parents, id(p))
	}
	return r
}

// shop is a mesh with a process, a pod, a proxy, and a workload that somebody
// else registers.
func shop() content {
	pod := []snapshot.PodImage{
		{Repository: "registry.example/web", Digest: image("web")},
		{Repository: "registry.example/envoy", Digest: image("envoy")},
		{Repository: "registry.example/migrate", Digest: image("migrate"), Init: true},
	}
	return content{
		mesh: "shop",
		proxies: []snapshot.Proxy{
			{Name: "edge", ID: id("/edge"), Allowed: []snapshot.ImageSet{set(image("envoy"))}, Registration: process("/nodes")},
			{Name: "plain", ID: id("/plain")},
			{Name: "sidecar", ID: id("/orders"), Workload: "orders", Allowed: []snapshot.ImageSet{set(image("orders-2"))}},
		},
		workloads: []snapshot.Workload{
			{Name: "billing", ID: id("/billing"), Allowed: []snapshot.ImageSet{set(image("billing"))}},
			{Name: "legacy", ID: id("/legacy"), Allowed: []snapshot.ImageSet{set(image("legacy"))}, Unproven: true},
			{
				Name: "orders", ID: id("/orders"), Allowed: []snapshot.ImageSet{set(image("orders-1")), set(image("orders-2"))},
				Revoked: []identity.Digest{image("orders-1")}, Registration: process("/nodes", "/nodes-b"),
			},
			{
				Name: "web", ID: id("/web"), Allowed: []snapshot.ImageSet{set(image("web"), image("envoy"), image("migrate"))},
				Registration: &snapshot.Registration{
					Parents:       []spiffeid.ID{id("/nodes")},
					Kubernetes:    &snapshot.KubernetesRegistration{Namespace: "shop", ServiceAccount: "web", Sets: [][]snapshot.PodImage{pod}},
					FederatesWith: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("partner.test")},
					X509TTL:       time.Minute, JWTTTL: time.Minute,
				},
			},
		},
	}
}

// foreign is an entry that is not meshseal's.
func foreign(name, path string, selectors ...spire.Selector) Entry {
	return Entry{ID: name, SPIFFEID: id(path), ParentID: id("/nodes"), Selectors: selectors}
}
