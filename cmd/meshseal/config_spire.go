package main

import (
	"errors"
	"strings"
	"time"
)

// spireConfig says which SPIRE server holds the registration entries of this
// mesh. None if empty.
type spireConfig struct {
	// Server is the server's socket, unix:///path, or host:port: mutual TLS with
	// the SVID of identity.workload_api, which needs an entry with admin.
	Server string `yaml:"server"`
	// Sync keeps the entries equal to the snapshot in force.
	Sync bool `yaml:"sync"`
	// Poll is how often the entries are listed where a workload demands the
	// evidence spire-entry, and the first pause after a failure; 1s if unset.
	Poll time.Duration `yaml:"poll"`
}

const defaultSPIREPoll = time.Second

func (c spireConfig) check(workloadAPI string) []error {
	var errs []error
	if c.Server == "" {
		if c.Sync || c.Poll != defaultSPIREPoll {
			errs = append(errs, errors.New("spire: name the server: unix:///path or host:port"))
		}
		return errs
	}
	if !strings.HasPrefix(c.Server, "unix:///") && workloadAPI == "" {
		errs = append(errs, errors.New("spire.server: mutual TLS needs identity.workload_api; or give the server's socket as unix:///path"))
	}
	if c.Poll < 100*time.Millisecond || c.Poll > time.Minute {
		errs = append(errs, errors.New("spire.poll: from 100ms to 1m"))
	}
	return errs
}
