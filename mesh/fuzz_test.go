package mesh

import (
	"bytes"
	"os"
	"path"
	"slices"
	"testing"
)

// FuzzBuild puts any bytes in the place of any file: a build ends with a
// snapshot or an error, never with a panic, and twice with the same.
func FuzzBuild(f *testing.F) {
	names := sortedKeys(attested())
	names = append(names, "policies/data.json", "proxies/web/more.json", "workloads/more.yaml")
	slices.Sort(names)
	for i, name := range names {
		f.Add(uint8(i), []byte(small()[name]))
		f.Add(uint8(i), []byte(attested()[name]))
		f.Add(uint8(i), []byte("&a [*a, {<<: *a}]"))
		f.Add(uint8(i), []byte("a: !!binary x\n---\n"))
		f.Add(uint8(i), []byte("resources: [{\"@type\": type.googleapis.com/google.protobuf.Any, value: {\"@type\": \"\"}}]"))
		f.Add(uint8(i), []byte("resources: [{\"@type\": type.googleapis.com/envoy.config.listener.v3.Listener, name: out, filter_chains: [null, {filters: [{name: x}]}]}]"))
	}
	for _, name := range []string{"proxies/hello/inbound.yaml", "proxies/hello/outbound.yaml", "proxies/hello/proxy.yaml", "workloads/hello.yaml"} {
		data, err := os.ReadFile(path.Join("template", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(slices.Index(names, listenersFile)), data)
	}
	f.Fuzz(func(t *testing.T, at uint8, content []byte) {
		repo := attested().with(names[int(at)%len(names)], string(content))
		a, _, err := Build(repo.fs(), testCommit())
		b, _, again := Build(repo.fs(), testCommit())
		switch {
		case (err == nil) != (a != nil):
			t.Fatalf("a draft %v and the error %v", a, err)
		case err != nil && (again == nil || again.Error() != err.Error()):
			t.Fatalf("first %v, then %v", err, again)
		case err == nil && (again != nil || !bytes.Equal(a.Bytes(), b.Bytes())):
			t.Fatalf("two builds of the same files differ: %v", again)
		}
	})
}
