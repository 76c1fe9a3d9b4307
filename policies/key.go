package policies

import (
	"errors"

	"meshseal/request"
)

// Cacheable is nil if the program decides alike about requests whose keys, as
// AppendKey makes them, are equal: what it decided once can be remembered. The
// error says what stands against that, and where.
func (p *Program) Cacheable() error {
	return errors.New("what the policy reads is not known")
}

// AppendKey appends what the program can read of a request and its facts, for a
// program that is Cacheable: two requests with the same key are decided alike.
// certificate stands for the text of source.certificate, if it is not 0.
// It is false, and nothing appended, for a request that has to be decided by
// itself.
func (p *Program) AppendKey(dst []byte, r *request.Request, f *Facts, certificate uint64) (key []byte, ok bool) {
	return dst, false
}
