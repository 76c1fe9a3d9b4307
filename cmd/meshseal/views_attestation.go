package main

import (
	"time"

	"meshseal/snapshot"
)

// evidenceView has the names of the section evidence of meshseal.yaml.
type evidenceView struct {
	Extension string   `json:"x509_extension,omitempty"`
	JWT       *jwtView `json:"jwt_svid,omitempty"`
	Chain     bool     `json:"client_certificate_chain"`
}

type jwtView struct {
	Header   string `json:"header"`
	Audience string `json:"audience"`
	MaxAge   string `json:"max_age"`
}

func viewEvidence(e snapshot.EvidenceSettings) *evidenceView {
	if e == (snapshot.EvidenceSettings{}) {
		return nil
	}
	v := &evidenceView{Extension: e.ExtensionOID, Chain: e.Chain}
	if e.JWT != (snapshot.JWTSettings{}) {
		v.JWT = &jwtView{e.JWT.Header, e.JWT.Audience, e.JWT.MaxAge.String()}
	}
	return v
}

// spireView has the names of the section spire of a workload.
type spireView struct {
	Parents       []string        `json:"parents"`
	Unix          *unixView       `json:"unix,omitempty"`
	Kubernetes    *kubernetesView `json:"kubernetes,omitempty"`
	FederatesWith []string        `json:"federates_with"`
	X509TTL       string          `json:"x509_svid_ttl,omitempty"` // absent: the SPIRE server's own
	JWTTTL        string          `json:"jwt_svid_ttl,omitempty"`
}

type unixView struct {
	Path string `json:"path"`
	User string `json:"user"`
}

type kubernetesView struct {
	Namespace      string           `json:"namespace"`
	ServiceAccount string           `json:"service_account"`
	Sets           [][]podImageView `json:"sets"`
}

type podImageView struct {
	Image string `json:"image"` // name@digest
	Init  bool   `json:"init"`
}

// viewSPIRE is nil where nothing is registered.
func viewSPIRE(g *snapshot.Registration) *spireView {
	if g == nil {
		return nil
	}
	v := &spireView{Parents: []string{}, FederatesWith: []string{}, X509TTL: viewTTL(g.X509TTL), JWTTTL: viewTTL(g.JWTTTL)}
	for _, id := range g.Parents {
		v.Parents = append(v.Parents, id.String())
	}
	for _, td := range g.FederatesWith {
		v.FederatesWith = append(v.FederatesWith, td.Name())
	}
	if u := g.Unix; u != nil {
		v.Unix = &unixView{u.Path, u.User}
	}
	if k := g.Kubernetes; k != nil {
		v.Kubernetes = &kubernetesView{k.Namespace, k.ServiceAccount, viewPodImages(k.Sets)}
	}
	return v
}

func viewPodImages(sets [][]snapshot.PodImage) [][]podImageView {
	out := [][]podImageView{}
	for _, set := range sets {
		images := []podImageView{}
		for _, p := range set {
			images = append(images, podImageView{p.Repository + "@" + p.Digest.String(), p.Init})
		}
		out = append(out, images)
	}
	return out
}

func viewTTL(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
