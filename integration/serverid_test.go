package integration

import (
	"testing"

	"meshseal/internal/meshtest"
)

// TestServerWithADigest: a server whose SVID carries a digest serves Envoys
// whose bootstrap names it by its base ID, or by that digest; and none whose
// bootstrap names another digest.
func TestServerWithADigest(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	base := s.ServerID()
	svid := s.CA.SVID(base + "/sha256/" + digest("meshseal"))
	meshtest.Write(t, s.Dir, "server.pem", svid.CertificatePEM())
	meshtest.Write(t, s.Dir, "server.key", svid.KeyPEM())
	s.Start()
	launch := func(t *testing.T, serverID string) *meshtest.Envoy {
		t.Helper()
		config, admin, _ := s.BootstrapWithSDS("app", s.CA.SVID(id("app", "app-1")), "--server", s.Host+":18000", "--server-id", serverID)
		return meshtest.AdminOf(meshtest.Start(t, meshtest.EnvoyCommand(t, config)), admin)
	}
	for name, serverID := range map[string]string{"base ID": base, "its digest": base + "/sha256/" + digest("meshseal")} {
		t.Run(name, func(t *testing.T) {
			launch(t, serverID).WaitReady()
			wantAnswer(t, s.client(t), s.url("/items/1"), 200, "")
		})
	}
	t.Run("another digest", func(t *testing.T) {
		e := launch(t, base+"/sha256/"+digest("other"))
		e.WaitAlive()
		e.WaitStat("cluster.meshseal-xds.ssl.fail_verify_san", 1)
		if n := e.Stat("control_plane.connected_state"); n != 0 {
			t.Errorf("the Envoy is connected to a server with another digest (%v)", n)
		}
	})
}
