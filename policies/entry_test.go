package policies

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// One set of files can decide by several rules, and is compiled once.
func TestEntryPointsOfOneProgram(t *testing.T) {
	files := []File{{Path: "policies/a.rego", Data: []byte("package shop\nread := true\nwrite := false\nmaybe if input.never")}}
	p, err := Compile(files, "shop/read")
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.At("shop/write")
	if err != nil {
		t.Fatal(err)
	}
	if w.Entrypoint() != "data.shop.write" || p.Entrypoint() != "data.shop.read" {
		t.Errorf("entry points %s and %s", p.Entrypoint(), w.Entrypoint())
	}
	for _, c := range []struct {
		p    *Program
		want bool
	}{{p, true}, {w, false}} {
		if r, err := c.p.Eval(context.Background(), object{}); err != nil || r.Allowed != c.want {
			t.Errorf("%s: %+v, %v", c.p.Entrypoint(), r, err)
		}
	}
	if m, err := p.At("shop/maybe"); err != nil {
		t.Error(err)
	} else if _, err := m.Eval(context.Background(), object{}); !errors.Is(err, ErrUndefined) {
		t.Errorf("an undefined entry point: %v", err)
	}
	for _, bad := range []string{"shop/reed", "", "shop//read"} {
		if _, err := p.At(bad); err == nil || !strings.Contains(err.Error(), "policy path") {
			t.Errorf("entry %q: %v", bad, err)
		}
	}
}
