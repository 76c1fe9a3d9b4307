package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// The servers that are compared, in the order of the ratios.
var kinds = []string{"meshseal", "go-control-plane"}

// layout is how clients are spread over nodes.
type layout struct {
	name    string
	nodes   int
	updates map[string]int // measured a round, by server
}

var layouts = []layout{
	{name: "group", nodes: 1, updates: map[string]int{"meshseal": 8, "go-control-plane": 8}},
	{name: "nodes", nodes: clients, updates: map[string]int{"meshseal": 4, "go-control-plane": 1}},
}

// figures are what was measured, by the name of the figure and the server.
type figures map[string]map[string][]float64

func (f figures) add(name, kind string, value float64) {
	if f[name] == nil {
		f[name] = map[string][]float64{}
	}
	f[name][kind] = append(f[name][kind], value)
}

// compare measures in turns, so that both servers see the same machine.
func compare(rounds int, budget time.Duration, only string) error {
	begin, longest := time.Now(), time.Duration(0)
	f := figures{}
	for round := range rounds {
		if spent := time.Since(begin); spent+longest > budget {
			fmt.Printf("%5.1fs %d rounds have to do\n", spent.Seconds(), round)
			break
		}
		at := time.Now()
		for _, l := range layouts {
			if only != "" && only != l.name {
				continue
			}
			turn := slices.Clone(kinds)
			if round%2 == 1 {
				slices.Reverse(turn)
			}
			for _, kind := range turn {
				fmt.Printf("%5.1fs round %d of %d: %s, %s\n", time.Since(begin).Seconds(), round+1, rounds, l.name, kind)
				if err := measure(kind, l, f); err != nil {
					return fmt.Errorf("%s, %s: %w", kind, l.name, err)
				}
			}
		}
		longest = max(longest, time.Since(at))
	}
	return report(f, only != "")
}

// run is one server with its clients.
type run struct {
	*process
	*fleet
	kind, layout string
	f            figures
}

// measure starts a server and takes every figure.
func measure(kind string, l layout, f figures) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := launch(kind, dir, l.nodes)
	if err != nil {
		return err
	}
	defer s.stop()
	r := &run{process: s, fleet: newFleet(dir, l.nodes), kind: kind, layout: l.name, f: f}
	empty, err := r.ask("held")
	if err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	for version := range l.updates[kind] {
		if err := r.update(version + 1); err != nil {
			return err
		}
	}
	if err := r.reconnect("resume", false); err != nil {
		return err
	}
	if err := r.reconnect("reconnect", true); err != nil {
		return err
	}
	// What the server holds for its clients, in configuration and in streams.
	held, err := r.ask("held")
	if err != nil {
		return err
	}
	r.add("memory", float64(held-empty)/1024/clients)
	return r.each((*client).disconnect)
}

func (r *run) add(name string, value float64) { r.f.add(name+"-"+r.layout, r.kind, value) }

// start puts the first version in force and connects all clients, which have
// nothing yet.
func (r *run) start() error {
	if err := errors.Join(r.do("prepare 0"), r.do("adopt")); err != nil {
		return err
	}
	used, err := r.spends(func() error {
		if err := r.each((*client).connect); err != nil {
			return err
		}
		return r.wait(func() bool { return r.listeners.Load() >= clients })
	})
	if err != nil {
		return err
	}
	r.add("reconnect", used.Seconds()*1000)
	return nil
}

// update changes one listener, and takes the time until the last client has
// acknowledged it.
func (r *run) update(version int) error {
	if err := r.do("prepare " + strconv.Itoa(version)); err != nil {
		return err
	}
	r.listeners.Store(0)
	begin := time.Now()
	if err := r.do("adopt"); err != nil {
		return err
	}
	if err := r.wait(func() bool { return r.listeners.Load() >= clients }); err != nil {
		return err
	}
	r.add("update", time.Since(begin).Seconds()*1000)
	return r.rests()
}

// reconnect breaks off all streams, and takes what it costs the server that all
// clients come back at once. They have forgotten all they had, as Envoys that
// were started anew, or say what they have, as Envoys that went on.
func (r *run) reconnect(name string, forget bool) error {
	used, err := r.spends(func() error {
		if err := r.each((*client).disconnect); err != nil {
			return err
		}
		if forget {
			for _, c := range r.clients {
				c.forget()
			}
		}
		return r.each((*client).connect)
	})
	if err != nil {
		return err
	}
	r.add(name, used.Seconds()*1000)
	return nil
}

// spends is the processor time that the server uses for something, until it
// rests.
func (r *run) spends(do func() error) (time.Duration, error) {
	before, err := r.ask("cpu")
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	if err := r.rests(); err != nil {
		return 0, err
	}
	after, err := r.ask("cpu")
	return time.Duration(after - before), err
}

// rests waits until the server has nothing to do any more: no client was sent
// anything for a while, and the server used next to no processor time.
func (r *run) rests() error {
	const while, idle = 200 * time.Millisecond, 10 * time.Millisecond
	var cpu, answers int64 = -1, -1
	for quiet := 0; quiet < 2; {
		now, err := r.ask("cpu")
		if err != nil {
			return err
		}
		heard := r.answers.Load()
		if heard == answers && time.Duration(now-cpu) < idle {
			quiet++
		} else {
			quiet = 0
		}
		cpu, answers = now, heard
		select {
		case err := <-r.failed:
			return err
		case <-time.After(while):
		}
	}
	return nil
}
