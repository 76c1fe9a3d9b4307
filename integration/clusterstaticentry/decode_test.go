// Package clusterstaticentry shows that spire-controller-manager understands the
// manifests that meshseal writes: its own types decode them, and its reconciler
// makes a real SPIRE server hold the same entries that `meshseal spire sync`
// makes. It reads the manifests of docs/spire-kubernetes.md too.
//
// It is a module of its own because Kubernetes' types are modules that nothing
// of meshseal's needs.
package clusterstaticentry

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	spirev1alpha1 "github.com/spiffe/spire-controller-manager/api/v1alpha1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// kinds are the Go types that manifests are decoded into.
var kinds = map[metav1.TypeMeta]func() any{
	{APIVersion: "apps/v1", Kind: "Deployment"}:                                               func() any { return &appsv1.Deployment{} },
	{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole"}:                         func() any { return &rbacv1.ClusterRole{} },
	{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"}:                  func() any { return &rbacv1.ClusterRoleBinding{} },
	{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicy"}:        func() any { return &admissionv1.ValidatingAdmissionPolicy{} },
	{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicyBinding"}: func() any { return &admissionv1.ValidatingAdmissionPolicyBinding{} },
	{APIVersion: "spire.spiffe.io/v1alpha1", Kind: "ClusterStaticEntry"}:                      func() any { return &spirev1alpha1.ClusterStaticEntry{} },
	{APIVersion: "spire.spiffe.io/v1alpha1", Kind: "ControllerManagerConfig"}:                 func() any { return &spirev1alpha1.ControllerManagerConfig{} },
}

// documents are those of a YAML stream.
func documents(text string) (all []string) {
	for _, one := range regexp.MustCompile(`(?m)^---\n`).Split(text, -1) {
		if strings.TrimSpace(one) != "" {
			all = append(all, one)
		}
	}
	return all
}

// decode reads every document into the type that its kind names, strictly: an
// unknown or a repeated field is an error.
func decode(text string) (objects []any, err error) {
	for _, one := range documents(text) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(one), &kind); err != nil {
			return nil, err
		}
		make := kinds[kind]
		if make == nil {
			return nil, fmt.Errorf("no type is known for %+v", kind)
		}
		object := make()
		if err := strictly([]byte(one), object); err != nil {
			return nil, fmt.Errorf("%s: %w", kind.Kind, err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// strictly decodes as an API server does when it validates fields strictly: names
// agree to the letter.
func strictly(text []byte, into any) error {
	object, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	problems, err := json.UnmarshalStrict(object, into)
	return errors.Join(append(problems, err)...)
}

// of are the objects of one type.
func of[T any](objects []any) (all []T) {
	for _, o := range objects {
		if t, ok := o.(T); ok {
			all = append(all, t)
		}
	}
	return all
}

// page is docs/spire-kubernetes.md, its blocks of code by their language.
func page(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/spire-kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, m := range regexp.MustCompile("(?ms)^( *)```(\\w+)\n(.*?)^ *```$").FindAllStringSubmatch(string(text), -1) {
		block := regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[3], "")
		blocks[m[2]] = append(blocks[m[2]], block)
	}
	return blocks
}

// manifests are the objects of the page.
func manifests(t *testing.T) (objects []any) {
	t.Helper()
	for _, block := range page(t)["yaml"] {
		if strings.HasPrefix(block, "# ") {
			continue // a file of the mesh repository
		}
		some, err := decode(block)
		if err != nil {
			t.Errorf("%v:\n%s", err, block)
		}
		objects = append(objects, some...)
	}
	return objects
}

// file is the page's text of a file of the mesh repository.
func file(t *testing.T, name string) string {
	t.Helper()
	blocks := page(t)["yaml"]
	at := slices.IndexFunc(blocks, func(b string) bool { return strings.HasPrefix(b, "# "+name+"\n") })
	if at < 0 {
		t.Fatalf("the page has no %s", name)
	}
	return blocks[at]
}

// TestDecodingIsStrict: a field that does not exist, one that stands twice and a
// kind that is not known are errors, so that the tests beside this can fail.
func TestDecodingIsStrict(t *testing.T) {
	const entry = "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterStaticEntry\nmetadata: {name: a}\nspec:\n  spiffeID: spiffe://a/b\n  parentID: spiffe://a/c\n  selectors: [k8s:ns:a]\n"
	if _, err := decode(entry); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{
		entry + "  x509SvidTtl: 1m\n", entry + "  parentID: spiffe://a/d\n", entry + "  x509SVIDTTL: 60\n",
		strings.Replace(entry, "v1alpha1", "v1", 1),
	} {
		if _, err := decode(wrong); err == nil {
			t.Errorf("taken:\n%s", wrong)
		}
	}
}
