package snapshot

import (
	"errors"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// tree is the RFC 6962 Merkle tree over the encoded leaves of a snapshot.
type tree struct {
	size  uint64
	root  Digest
	nodes map[compact.NodeID][]byte
}

// growTree hashes leaves; at least one is needed.
func growTree(leaves [][]byte) (tree, error) {
	if len(leaves) == 0 {
		return tree{}, errors.New("a tree without a leaf has no root")
	}
	t := tree{size: uint64(len(leaves)), nodes: make(map[compact.NodeID][]byte, 2*len(leaves))}
	visit := func(id compact.NodeID, hash []byte) { t.nodes[id] = hash }
	factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	all := factory.NewEmptyRange(0)
	for _, leaf := range leaves {
		if err := all.Append(rfc6962.DefaultHasher.HashLeaf(leaf), visit); err != nil {
			return tree{}, err
		}
	}
	root, err := all.GetRootHash(nil)
	if err != nil {
		return tree{}, err
	}
	copy(t.root[:], root)
	return t, nil
}

// inclusion returns the audit path of a leaf, RFC 6962 section 2.1.1, from the
// leaf's sibling up.
func (t tree) inclusion(index uint64) ([][]byte, error) {
	need, err := proof.Inclusion(index, t.size)
	if err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(need.IDs))
	for i, id := range need.IDs {
		hashes[i] = t.nodes[id]
	}
	return need.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// checkInclusion is the inverse of inclusion.
func checkInclusion(leaf []byte, index, size uint64, path [][]byte, root Digest) error {
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, rfc6962.DefaultHasher.HashLeaf(leaf), path, root[:])
}
