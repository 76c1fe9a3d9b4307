package gitsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"meshseal/snapshot"
)

// session is one conversation with git-upload-pack, version 0 of the protocol:
// https://git-scm.com/docs/pack-protocol
//
// go-git's own transports are not used: its SSH reads the user's ssh_config
// and the environment, and neither bounds what a server may send.
type session interface {
	// advertise is the stream that begins with the list of refs.
	advertise(context.Context) (io.ReadCloser, error)
	// upload sends a request and is the stream of the answer.
	upload(context.Context, []byte) (io.ReadCloser, error)
	close()
}

// advertised are the refs of a remote, and what its server can do.
type advertised struct {
	refs         map[string]plumbing.Hash
	capabilities *capability.List
}

func readRefs(ctx context.Context, s session) (advertised, error) {
	body, err := s.advertise(ctx)
	if err != nil {
		return advertised{}, err
	}
	defer body.Close()
	refs := packp.NewAdvRefs()
	switch err := refs.Decode(newBounded(body, maxAdvertised, "the list of refs")); {
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && refs.IsEmpty():
		return advertised{}, fmt.Errorf("%w: it has no commit yet", snapshot.ErrSource)
	case err != nil:
		return advertised{}, remoteError("read the list of refs", err)
	case len(refs.Shallows) > 0:
		return advertised{}, fmt.Errorf("%w: the remote repository is shallow, so its history cannot be counted", snapshot.ErrSource)
	}
	return advertised{refs: refs.References, capabilities: refs.Capabilities}, nil
}

// find is the full name of a ref and what it points to. A commit's hash needs
// no ref.
func (a advertised) find(rev string) (ref string, hash plumbing.Hash, err error) {
	if isCommitHash(rev) {
		return "", plumbing.NewHash(rev), a.allows(plumbing.NewHash(rev))
	}
	names := []string{rev}
	if !strings.HasPrefix(rev, "refs/") {
		names = []string{"refs/heads/" + rev, "refs/tags/" + rev}
	}
	for _, name := range names {
		h, ok := a.refs[name]
		if !ok {
			continue
		}
		if ref != "" {
			return "", hash, fmt.Errorf("%w: %q could be %s or %s; write one of them in full", snapshot.ErrSource, rev, ref, name)
		}
		ref, hash = name, h
	}
	if ref == "" {
		return "", hash, fmt.Errorf("%w: it has no %s", snapshot.ErrSource, strings.Join(names, " and no "))
	}
	return ref, hash, nil
}

// allows reports whether the server hands out a commit by its hash.
func (a advertised) allows(hash plumbing.Hash) error {
	for _, c := range []capability.Capability{capability.AllowReachableSHA1InWant, capability.AllowTipSHA1InWant, "allow-any-sha1-in-want"} {
		if a.capabilities.Supports(c) {
			return nil
		}
	}
	for _, h := range a.refs {
		if h == hash {
			return nil
		}
	}
	return fmt.Errorf("%w: no ref points to commit %s, and the server hands out no others (uploadpack.allowReachableSHA1InWant); follow a tag", snapshot.ErrSource, hash)
}

func isCommitHash(rev string) bool { return plumbing.IsHash(rev) && strings.ToLower(rev) == rev }

// requestPack asks for what leads to want and is not among what leads to
// haves. What comes back is the pack, from its first byte.
func requestPack(ctx context.Context, s session, can *capability.List, want plumbing.Hash, haves []plumbing.Hash, limit int64) (io.ReadCloser, error) {
	request := packp.NewUploadPackRequest()
	request.Wants = []plumbing.Hash{want}
	request.Haves = haves
	side := sideband.Type(-1)
	for c, t := range map[capability.Capability]sideband.Type{capability.Sideband64k: sideband.Sideband64k, capability.NoProgress: -1, capability.OFSDelta: -1} {
		if !can.Supports(c) {
			continue
		}
		if err := request.Capabilities.Set(c); err != nil {
			return nil, err
		}
		if t >= 0 {
			side = t
		}
	}
	var text bytes.Buffer
	err := errors.Join(request.UploadRequest.Encode(&text), request.UploadHaves.Encode(&text, false), pktline.NewEncoder(&text).EncodeString("done\n"))
	if err != nil {
		return nil, err
	}
	body, err := s.upload(ctx, text.Bytes())
	if err != nil {
		return nil, err
	}
	answer := packp.NewUploadPackResponse(request)
	raw := newBounded(body, limit, "what the remote sends")
	if err := answer.Decode(withCloser{raw, body}); err != nil {
		return nil, errors.Join(remoteError("ask for the commits", err), body.Close())
	}
	if side < 0 {
		return answer, nil
	}
	return withCloser{sideband.NewDemuxer(side, answer), body}, nil
}

type withCloser struct {
	io.Reader
	io.Closer
}

// remoteError is an error of the remote or the way to it. What a server says is
// quoted, since anything may stand in it.
func remoteError(doing string, err error) error {
	if errors.Is(err, snapshot.ErrSource) || errors.Is(err, snapshot.ErrSourceLimit) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %s: it took too long", snapshot.ErrSourceLimit, doing)
	}
	return fmt.Errorf("%w: %s: %.400q", snapshot.ErrSource, doing, err.Error())
}
