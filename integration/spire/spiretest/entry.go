package spiretest

import (
	"strconv"
	"strings"
	"time"
)

// Entry is a registration entry.
type Entry struct {
	ID       string // the server makes one if it is empty
	SPIFFEID string
	ParentID string // the server's Nodes if it is empty
	// Selectors have the form type:value, such as unix:path:/usr/bin/x.
	Selectors     []string
	X509TTL       time.Duration // the server's if 0; whole seconds
	JWTTTL        time.Duration
	FederatesWith []string // trust domains
	Admin         bool
	Downstream    bool // the holder may ask for a signing certificate
}

// CreateEntry makes an entry and returns its ID.
func (s *Server) CreateEntry(e Entry) string {
	s.t.Helper()
	if e.ParentID == "" {
		e.ParentID = s.Nodes()
	}
	args := []string{"-spiffeID", e.SPIFFEID, "-parentID", e.ParentID,
		"-x509SVIDTTL", strconv.Itoa(int(e.X509TTL / time.Second)), "-jwtSVIDTTL", strconv.Itoa(int(e.JWTTTL / time.Second))}
	if e.ID != "" {
		args = append(args, "-entryID", e.ID)
	}
	for _, selector := range e.Selectors {
		args = append(args, "-selector", selector)
	}
	for _, td := range e.FederatesWith {
		args = append(args, "-federatesWith", "spiffe://"+td)
	}
	if e.Admin {
		args = append(args, "-admin")
	}
	if e.Downstream {
		args = append(args, "-downstream")
	}
	var answer struct {
		Results []struct{ Entry struct{ ID string } }
	}
	s.ask(&answer, "entry create", args...)
	if len(answer.Results) != 1 || answer.Results[0].Entry.ID == "" {
		s.t.Fatalf("the server made no entry of %v: %v", e, answer)
	}
	return answer.Results[0].Entry.ID
}

// DeleteEntry deletes an entry.
func (s *Server) DeleteEntry(id string) {
	s.t.Helper()
	s.Command("entry delete", "-entryID", id)
}

// Entries are all entries of the server, those of its nodes included.
func (s *Server) Entries() []Entry {
	s.t.Helper()
	type spiffeID struct {
		Domain string `json:"trust_domain"`
		Path   string
	}
	var answer struct {
		Entries []struct {
			ID            string
			SPIFFEID      spiffeID `json:"spiffe_id"`
			ParentID      spiffeID `json:"parent_id"`
			Selectors     []struct{ Type, Value string }
			X509          int64    `json:"x509_svid_ttl"`
			JWT           int64    `json:"jwt_svid_ttl"`
			FederatesWith []string `json:"federates_with"`
			Admin         bool
			Downstream    bool
		}
	}
	s.ask(&answer, "entry show")
	var all []Entry
	for _, got := range answer.Entries {
		e := Entry{ID: got.ID, SPIFFEID: "spiffe://" + got.SPIFFEID.Domain + got.SPIFFEID.Path,
			ParentID: "spiffe://" + got.ParentID.Domain + got.ParentID.Path,
			X509TTL:  time.Duration(got.X509) * time.Second, JWTTTL: time.Duration(got.JWT) * time.Second,
			Admin: got.Admin, Downstream: got.Downstream}
		for _, selector := range got.Selectors {
			e.Selectors = append(e.Selectors, selector.Type+":"+selector.Value)
		}
		for _, td := range got.FederatesWith {
			e.FederatesWith = append(e.FederatesWith, strings.TrimPrefix(td, "spiffe://"))
		}
		all = append(all, e)
	}
	return all
}
