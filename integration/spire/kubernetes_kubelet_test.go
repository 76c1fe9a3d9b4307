//go:build spire

package spire

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// kubelet is a stand-in for the kubelet of a node: it answers /pods, the one
// question that the k8s attestor of an agent asks, over TLS and with the token
// of a service account. There is no Kubernetes behind it. Pods are what a test
// says, and their containers are processes of the test.
type kubelet struct {
	server    *httptest.Server
	dir, host string
	mu        sync.Mutex
	pods      []*pod
}

const token = "the token of the agent's service account"

func startKubelet(t *testing.T) *kubelet {
	t.Helper()
	k := &kubelet{dir: spiretest.Dir(t), host: meshtest.Host()}
	ca := meshtest.NewCA(t, domain)
	cert := ca.SVID("spiffe://"+domain+"/kubelet", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP(k.host)} })
	meshtest.Write(t, k.dir, "ca.pem", ca.BundlePEM())
	meshtest.Write(t, k.dir, "token", token+"\n")
	l, err := net.Listen("tcp", k.host+":0")
	if err != nil {
		t.Fatal(err)
	}
	k.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(k.answer)},
		TLS: &tls.Config{Certificates: []tls.Certificate{cert.TLS()}}}
	k.server.StartTLS()
	t.Cleanup(k.server.Close)
	return k
}

func (k *kubelet) answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+token {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet || r.URL.Path != "/pods" {
		http.NotFound(w, r)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	items := []any{}
	for _, p := range k.pods {
		items = append(items, p.status())
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "PodList", "apiVersion": "v1", "items": items})
}

// run makes pods known to the kubelet.
func (k *kubelet) run(pods ...*pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods = append(k.pods, pods...)
}

// change changes a pod that the kubelet runs.
func (k *kubelet) change(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// attestor is the k8s attestor that asks this kubelet. More are further
// settings; the intervals are short so that a changed pod is seen at once.
func (k *kubelet) attestor(more string) string {
	_, port, _ := net.SplitHostPort(k.server.Listener.Addr().String())
	return fmt.Sprintf(`WorkloadAttestor "k8s" { plugin_data {
    node_name = %q
    kubelet_secure_port = %s
    kubelet_ca_path = "%[3]s/ca.pem"
    token_path = "%[3]s/token"
    poll_retry_interval = "20ms"
    max_poll_attempts = 3
    %s
  } }`, k.host, port, k.dir, more)
}

// pod is what a kubelet says about a pod.
type pod struct {
	UID                         string
	Namespace, ServiceAccount   string
	Labels                      map[string]string
	Containers, Init, Ephemeral []container
	Command                     []string // of the first container
}

// container is one container of a pod. Image and ImageID are those of its
// status: a tag or a digest as the pod names it, and the digest that the
// container runtime pulled. One without ID has not started: the kubelet then
// states the image as the pod names it, and no image ID.
type container struct{ ID, Image, ImageID string }

// run is a container whose image the pod names by its digest.
func run(image string) container {
	return container{ID: random(32), Image: image, ImageID: image}
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// newPod is a pod of the service account "orders" in the namespace "shop".
func newPod(containers ...container) *pod {
	r := random(16)
	return &pod{UID: strings.Join([]string{r[:8], r[8:12], r[12:16], r[16:20], r[20:]}, "-"),
		Namespace: "shop", ServiceAccount: "orders", Labels: map[string]string{"attested": "yes"}, Containers: containers}
}

// status is the pod in the words of Kubernetes' API, core/v1.
func (p *pod) status() map[string]any {
	statuses := func(name string, containers []container) []any {
		all := []any{}
		for i, c := range containers {
			one := map[string]any{"name": name + strconv.Itoa(i), "image": c.Image, "imageID": c.ImageID,
				"containerID": "containerd://" + c.ID, "ready": true, "state": map[string]any{"running": map[string]any{}}}
			if c.ID == "" {
				one["containerID"], one["ready"] = "", false
				one["state"] = map[string]any{"waiting": map[string]any{"reason": "PodInitializing"}}
			}
			all = append(all, one)
		}
		return all
	}
	return map[string]any{
		"metadata": map[string]any{"name": "orders-" + p.UID[:8], "namespace": p.Namespace, "uid": p.UID, "labels": p.Labels},
		"spec": map[string]any{"serviceAccountName": p.ServiceAccount, "nodeName": "node-1",
			"containers": []any{map[string]any{"name": "app0", "image": p.Containers[0].Image, "command": p.Command}}},
		"status": map[string]any{
			"phase":                      "Running",
			"containerStatuses":          statuses("app", p.Containers),
			"initContainerStatuses":      statuses("init", p.Init),
			"ephemeralContainerStatuses": statuses("debug", p.Ephemeral),
		},
	}
}
