package guard

import (
	"cmp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"meshseal/snapshot"
)

// candidate is a verified seal that an update brings and that is not adopted
// yet.
type candidate struct {
	sealed  *snapshot.Sealed
	carried snapshot.Seal
	record  snapshot.Record // after its adoption
}

// adoptable verifies the seal that the update brings, by the keys that count
// since the last adoption, and lets it judge the rest of the update. It returns
// nil where the update brings none, or the one in force again.
func (u *update) adoptable() (*candidate, error) {
	next, brought, err := u.carried()
	if err != nil || brought == "" {
		return nil, err
	}
	switch {
	case u.guard.sealed != nil && same(next, u.guard.carried):
		return nil, nil
	case len(next.Statement) == 0:
		return nil, u.refuse(CodeSealMissing, brought, "the list came, and no statement for it")
	case len(next.List) == 0:
		return nil, u.refuse(CodeSealMissing, brought, "the statement came, and no list for it")
	}
	record := u.guard.record.Record()
	sealed, err := snapshot.VerifySeal(next, record.Trust(), u.guard.config.Proxy, u.guard.config.Mesh, u.now)
	if err != nil {
		return nil, u.refuseSeal(err)
	}
	record, err = record.Next(sealed, nil)
	if err != nil {
		return nil, u.refuseSeal(err)
	}
	u.sealed = sealed
	return &candidate{sealed: sealed, carried: next, record: record}, nil
}

// carried is the seal in force with the parts that the update brings put in
// their place, and the name of one that it brings, "" for none.
func (u *update) carried() (next snapshot.Seal, brought string, err error) {
	next = u.guard.carried
	for _, r := range u.added {
		if !u.isCarrier(r.Name) {
			continue
		}
		m, name, err := decode(u.url, r.Body)
		if err != nil {
			return next, "", u.refuse(CodeUnreadable, r.Name, "%v", err)
		}
		if name != r.Name {
			return next, "", u.refuse(CodeMisnamed, r.Name, "the resource calls itself %q", plain(name, maxShownName))
		}
		data, err := snapshot.ReadCarrier(m.(*clusterv3.Cluster))
		if err != nil {
			return next, "", u.refuse(sealCode(err), r.Name, "%v", err)
		}
		if r.Name == snapshot.StatementCluster {
			next.Statement = data
		} else {
			next.List = data
		}
		brought = r.Name
	}
	return next, brought, nil
}

// adopt makes the seal the one in force. The record comes first: what was not
// remembered is not adopted.
func (c *candidate) adopt(u *update) error {
	g := u.guard
	if err := g.record.Keep(c.record); err != nil {
		return u.refuse(CodeRecord, snapshot.StatementCluster, "%v", err)
	}
	g.sealed, g.carried = c.sealed, c.carried
	return nil
}

// refuseSeal is a refusal by a rule of the seal itself, under its own code.
func (u *update) refuseSeal(err error) *Refusal {
	r := u.refuse(sealCode(err), snapshot.StatementCluster, "%v", err)
	r.Type = snapshot.ClusterType
	return r
}

func sealCode(err error) Code {
	return cmp.Or(Code(snapshot.Code(err)), CodeSealRefused)
}
