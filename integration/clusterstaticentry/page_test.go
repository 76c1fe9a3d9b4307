package clusterstaticentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// TestPageManifests: every manifest of the page is one that Kubernetes' and the
// controller manager's types take as it is, and what belongs together agrees.
func TestPageManifests(t *testing.T) {
	objects := manifests(t)
	if want := 11; len(objects) != want {
		t.Errorf("the page has %d manifests, wanted %d", len(objects), want)
	}
	policies := map[string]bool{}
	for _, p := range of[*admissionv1.ValidatingAdmissionPolicy](objects) {
		policies[p.Name] = true
		if *p.Spec.FailurePolicy != admissionv1.Fail {
			t.Errorf("%s fails open", p.Name)
		}
	}
	bindings := of[*admissionv1.ValidatingAdmissionPolicyBinding](objects)
	for _, b := range bindings {
		if !policies[b.Spec.PolicyName] || !slices.Equal(b.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
			t.Errorf("the binding %s does not deny by a policy of the page", b.Name)
		}
		delete(policies, b.Spec.PolicyName)
	}
	if len(policies) > 0 || len(bindings) == 0 {
		t.Errorf("policies without a binding: %v", policies)
	}
}

// TestPageAdmission: the expressions of the page's policies deny what they are
// for: a changed image, and every request for what the other policy matches.
func TestPageAdmission(t *testing.T) {
	policies := map[string]*admissionv1.ValidatingAdmissionPolicy{}
	for _, p := range of[*admissionv1.ValidatingAdmissionPolicy](manifests(t)) {
		policies[p.Name] = p
	}
	const pod = `{spec: {containers: [{name: a, image: a@1}, {name: b, image: b@1}], initContainers: [{name: i, image: i@1}]}}`
	for _, one := range []struct {
		policy, from, to string
		allowed          bool
	}{
		{"meshseal-images-stay-as-attested", pod, pod, true},
		{"meshseal-images-stay-as-attested", `{spec: {containers: [{image: a@1}]}}`, `{spec: {containers: [{image: a@1}], priority: 1}}`, true},
		{"meshseal-images-stay-as-attested", pod, strings.Replace(pod, "a@1", "a@2", 1), false},
		{"meshseal-images-stay-as-attested", pod, strings.Replace(pod, "b@1", "b@2", 1), false},
		{"meshseal-images-stay-as-attested", pod, strings.Replace(pod, "i@1", "i@2", 1), false},
		{"meshseal-pods-stay-as-attested", pod, pod, false},
		{"meshseal-pods-stay-as-attested", `{}`, `{kind: PodExecOptions}`, false},
	} {
		p := policies[one.policy]
		if p == nil {
			t.Fatalf("the page has no policy %s", one.policy)
		}
		if got := admits(t, p, one.from, one.to); got != one.allowed {
			t.Errorf("%s, from %s to %s: allowed is %v, wanted %v", one.policy, one.from, one.to, got, one.allowed)
		}
	}
	matched := policies["meshseal-pods-stay-as-attested"].Spec.MatchConstraints.ResourceRules[0]
	for _, resource := range []string{"pods/ephemeralcontainers", "pods/exec", "pods/attach", "pods/portforward"} {
		if !slices.Contains(matched.Resources, resource) || !slices.Contains(matched.Operations, admissionv1.OperationAll) {
			t.Errorf("the policy does not match %s", resource)
		}
	}
}

// admits evaluates the policy's expressions; one that fails denies.
func admits(t *testing.T, p *admissionv1.ValidatingAdmissionPolicy, from, to string) bool {
	t.Helper()
	env, err := cel.NewEnv(cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for name, text := range map[string]string{"oldObject": from, "object": to} {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		values[name] = v
	}
	for _, v := range p.Spec.Validations {
		ast, issues := env.Compile(v.Expression)
		if issues.Err() != nil {
			t.Fatalf("%s: %v", v.Expression, issues.Err())
		}
		program, err := env.Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		if out, _, err := program.Eval(values); err != nil || out.Value() != true {
			return false
		}
	}
	return true
}

// TestPageEntry: the manifest of the page is the one that meshseal writes for
// the workload of the page, and the Deployment beside it is a pod with exactly
// those images.
func TestPageEntry(t *testing.T) {
	s := build(t, file(t, "workloads/orders.yaml"))
	text, written := s.manifests(t)
	block := strings.TrimPrefix(strings.TrimSpace(text), "---\n")
	if !slices.ContainsFunc(page(t)["yaml"], func(b string) bool { return strings.TrimSpace(b) == block }) {
		t.Errorf("the page does not hold what meshseal writes for its workload:\n%s", block)
	}
	deployments := of[*appsv1.Deployment](manifests(t))
	at := slices.IndexFunc(deployments, func(d *appsv1.Deployment) bool { return d.Name == "orders" })
	if at < 0 || len(written) != 1 {
		t.Fatalf("%d manifests, and the Deployment at %d", len(written), at)
	}
	d := deployments[at]
	pod := d.Spec.Template.Spec
	wanted := []string{"k8s:ns:" + d.Namespace, "k8s:sa:" + pod.ServiceAccountName,
		fmt.Sprintf("k8s:pod-image-count:%d", len(pod.Containers)), fmt.Sprintf("k8s:pod-init-image-count:%d", len(pod.InitContainers))}
	for kind, containers := range map[string][]corev1.Container{"k8s:pod-image:": pod.Containers, "k8s:pod-init-image:": pod.InitContainers} {
		for _, c := range containers {
			wanted = append(wanted, kind+c.Image)
		}
	}
	slices.Sort(wanted)
	if got := slices.Sorted(slices.Values(written[0].Spec.Selectors)); !slices.Equal(got, wanted) {
		t.Errorf("the Deployment has the selectors\n%v, the entry\n%v", wanted, got)
	}
}

// programs is a folder with the programs that the page's commands name.
func programs(t *testing.T) string {
	t.Helper()
	spire, err := spiretest.Binaries()
	if err != nil {
		t.Fatalf("no SPIRE: %v (make spire builds it, MESHSEAL_SPIRE names another folder)", err)
	}
	dir := spiretest.Dir(t)
	for name, path := range map[string]string{"meshseal": meshtest.Meshseal(t).Path,
		"spire-server": spire + "/spire-server", "spire-agent": spire + "/spire-agent"} {
		if path, err = filepath.Abs(path); err == nil {
			err = os.Symlink(path, dir+"/"+name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPageSettings: a real server runs with the page's configuration and a real
// agent with its k8s attestor. SPIRE's own validation looks neither into plugins
// nor at the names below `experimental`, so the server and the agent are started,
// and those names are compared with the ones that spiretest uses.
func TestPageSettings(t *testing.T) {
	dir := programs(t)
	blocks := page(t)["hcl"]
	if len(blocks) != 2 {
		t.Fatalf("the page has %d configuration files", len(blocks))
	}
	for i, experimental := range []string{`experimental { cache_reload_interval = "1s" }`, `experimental { sync_interval = "1s" }`} {
		if !strings.Contains(blocks[i], experimental) || strings.Count(blocks[i], "experimental") != 1 {
			t.Errorf("the configuration has another part than %s:\n%s", experimental, blocks[i])
		}
	}
	if err := os.MkdirAll(dir+"/server/data", 0o700); err != nil {
		t.Fatal(err)
	}
	config := meshtest.Write(t, dir, "server.conf", strings.NewReplacer("/run/spire", dir, "0.0.0.0", meshtest.Host()).Replace(blocks[0]))
	server := meshtest.Start(t, exec.Command(dir+"/spire-server", "run", "-config", config))
	server.Eventually("the server of the page is healthy", func() error {
		out, err := exec.Command(dir+"/spire-server", "healthcheck", "-socketPath", dir+"/server/server.sock").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	config = meshtest.Write(t, dir, "agent.conf", blocks[1])
	meshtest.Run(t, exec.Command(dir+"/spire-agent", "validate", "-config", config))

	_, attestor, found := strings.Cut(blocks[1], `WorkloadAttestor "k8s" {`)
	attestor, found = strings.CutSuffix(strings.TrimRight(attestor, "\n"), "\n}")
	if !found {
		t.Fatalf("the agent's configuration does not end with its k8s attestor:\n%s", blocks[1])
	}
	// Of the cluster's files that are the attestor's defaults there are none here.
	meshtest.Write(t, dir, "ca.pem", meshtest.NewCA(t, domain).BundlePEM())
	meshtest.Write(t, dir, "token", "a token")
	here := fmt.Sprintf("plugin_data {\n kubelet_ca_path = \"%[1]s/ca.pem\"\n token_path = \"%[1]s/token\"", dir)
	s := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	s.StartAgent(spiretest.AgentConfig{Attestors: `WorkloadAttestor "k8s" {` + strings.Replace(attestor, "plugin_data {", here, 1)})
}

// TestPageCommands: the commands of the page do what it says on a real server.
func TestPageCommands(t *testing.T) {
	dir := programs(t)
	s := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	snap := build(t, file(t, "workloads/orders.yaml"))
	blocks := page(t)["sh"]
	for _, block := range blocks {
		block = strings.ReplaceAll(block, "spire-server entry create", "spire-server entry create -socketPath "+s.Socket)
		cmd := exec.Command("sh", "-eu", "-c", block)
		cmd.Dir, cmd.Env = filepath.Dir(snap.snapshot), append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		meshtest.Run(t, cmd)
	}
	written, err := os.ReadFile(filepath.Dir(snap.snapshot) + "/entries.yaml")
	if text, _ := snap.manifests(t); err != nil || strings.TrimSpace(string(written)) != strings.TrimSpace(text) {
		t.Errorf("entries.yaml: %v\n%s", err, written)
	}
	var admins, nodes int
	for _, e := range s.Entries() {
		switch {
		case e.Admin && e.SPIFFEID == s.ID("/spire-sync") && e.ParentID == s.Nodes() && len(e.Selectors) == 5:
			admins++
		case e.SPIFFEID == s.Nodes() && e.ParentID == s.ID("/spire/server") && slices.Equal(e.Selectors, []string{"k8s_psat:cluster:shop"}):
			nodes++
		}
	}
	if admins != 1 || nodes != 1 || len(blocks) != 3 {
		t.Errorf("%d commands made %d administrators and %d aliases: %v", len(blocks), admins, nodes, s.Entries())
	}
}

// TestPageDeployment: what the container of spire-sync is started with registers
// the workload of the page, at a server that takes it for an administrator by the
// flag of its entry alone.
func TestPageDeployment(t *testing.T) {
	deployments := of[*appsv1.Deployment](manifests(t))
	at := slices.IndexFunc(deployments, func(d *appsv1.Deployment) bool { return d.Name == "spire-sync" })
	if at < 0 {
		t.Fatal("the page has no Deployment spire-sync")
	}
	snap := build(t, file(t, "workloads/orders.yaml"))
	s := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	agent := s.StartAgent(spiretest.AgentConfig{})
	here := strings.NewReplacer("/etc/meshseal/signer.pub", snap.key+".pub", "/var/lib/meshseal/record.json", snap.snapshot+".record",
		"/var/lib/meshseal/mesh.snapshot", snap.snapshot, "spire-server.spire:8081", fmt.Sprintf("%s:%d", s.Host, s.Port),
		"unix:///run/spire/agent.sock", "unix://"+agent.Socket)
	cmd := meshtest.Meshseal(t)
	for _, arg := range deployments[at].Spec.Template.Spec.Containers[0].Args {
		cmd.Args = append(cmd.Args, here.Replace(arg))
	}
	path, err := filepath.Abs(cmd.Path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.CreateEntry(spiretest.Entry{SPIFFEID: s.ID("/spire-sync"), Selectors: spiretest.ProgramOf(t, path).Selectors(), Admin: true})
	meshtest.Start(t, cmd).Eventually("the entry of the page is registered", func() error {
		wanted := snap.entries(t)
		for _, e := range s.Entries() {
			if e.SPIFFEID == wanted[0].SPIFFEID {
				return nil
			}
		}
		return fmt.Errorf("there is no entry for %s", wanted[0].SPIFFEID)
	})
}
