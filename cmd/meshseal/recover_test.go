package main

import (
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"meshseal/snapshot"
)

// adopts STATE FILE KEY.pub adopts a snapshot into a state folder and into the
// record file STATE.guard, as a server and a guard do that trust the key. With
// ! it demands that the store refuses it.
func adopts(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: [!] adopts STATE FILE KEY.pub")
	}
	state := ts.MkAbs(args[0])
	data, err := snapshot.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	trust, err := readTrust([]string{ts.MkAbs(args[2])}, 1)
	ts.Check(err)
	store, err := snapshot.OpenStore(state, trust)
	ts.Check(err)
	defer store.Close()
	s, err := snapshot.Open(data, store.Trust(), time.Now())
	ts.Check(err)
	err = store.Adopt(s, nil)
	if neg {
		if err == nil {
			ts.Fatalf("%s was adopted", args[1])
		}
		return
	}
	ts.Check(err)
	record, err := snapshot.OpenRecordFile(state+".guard", trust)
	ts.Check(err)
	next, err := record.Record().Next(s, nil)
	ts.Check(err)
	ts.Check(record.Keep(next))
}
