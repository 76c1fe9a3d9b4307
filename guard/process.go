package guard

import (
	"bytes"
	"errors"
	"sync"
	"time"
)

// Process is what all validators of one Envoy share: one guard. Its zero value
// has none yet.
type Process struct {
	mu     sync.Mutex
	config []byte
	guard  *Guard
}

// Open makes the guard when the first validator comes. Another one has to bring
// the same configuration: of two, one could be the weaker. The guard lives as
// long as the process, whatever Envoy does with its validators.
func (p *Process) Open(config []byte, now func() time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.guard != nil {
		if !bytes.Equal(config, p.config) {
			return errors.New("the validators of this Envoy have different configurations; give all of them the same")
		}
		return nil
	}
	g, err := New(config, now)
	if err != nil {
		return err
	}
	p.config, p.guard = bytes.Clone(config), g
	return nil
}

// Guard is the guard that Open made.
func (p *Process) Guard() *Guard {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.guard
}
