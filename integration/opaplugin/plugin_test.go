// Package opaplugin_test compares meshseal with opa-envoy-plugin v1.14.1-envoy,
// whose input and decision documents policies are written for: the same request
// has to give the same input document, and the same answer for the same result
// of Rego. Where they differ on purpose, the difference is a row of the table
// in docs/policy.md, which differences_test.go holds complete.
//
// The plugin is the real one, with its own gRPC server. Its Rego is that of the
// OPA that meshseal links, so that the results of Rego are the same. It is a
// module of its own because the plugin needs modules that nothing of meshseal's
// needs.
package opaplugin_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa-envoy-plugin/envoyauth"
	"github.com/open-policy-agent/opa-envoy-plugin/plugin"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// startPlugin runs opa-envoy-plugin with a policy, and a descriptor set if
// there is one, on a Unix socket.
func startPlugin(t testing.TB, policy, path string, set []byte) *grpc.ClientConn {
	t.Helper()
	descriptors := ""
	if set != nil {
		descriptors = filepath.Join(t.TempDir(), "shop.pb")
		if err := os.WriteFile(descriptors, set, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store := inmem.NewFromObject(map[string]any{})
	ctx := context.Background()
	if err := storage.Txn(ctx, store, storage.WriteParams, func(txn storage.Transaction) error {
		return store.UpsertPolicy(ctx, txn, "policy.rego", []byte(policy))
	}); err != nil {
		t.Fatal(err)
	}
	manager, err := plugins.New([]byte("{}"), "test", store, plugins.Logger(logging.NewNoOpLogger()))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "opa.sock")
	settings, err := json.Marshal(map[string]any{"addr": "unix://" + socket, "path": path, "proto-descriptor": descriptors})
	if err != nil {
		t.Fatal(err)
	}
	config, err := plugin.Factory{}.Validate(manager, settings)
	if err != nil {
		t.Fatal(err)
	}
	manager.Register(plugin.PluginName, plugin.Factory{}.New(manager, config))
	if err := manager.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Stop(ctx) })
	return dial(t, socket)
}

// dial waits until the server on the socket answers.
func dial(t testing.TB, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Minute}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// pluginInput is the plugin's input document.
func pluginInput(req *authv3.CheckRequest, files *protoregistry.Files) (map[string]any, error) {
	return envoyauth.RequestToInput(req, logging.NewNoOpLogger(), files, false)
}

// protoSet reads a descriptor set as the plugin does.
func protoSet(t testing.TB, data []byte) *protoregistry.Files {
	t.Helper()
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
