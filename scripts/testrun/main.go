// Command testrun runs every test of the project and closes with one line,
// "N passed, N failed". The tests that need no Envoy come first. What a failed
// test printed is shown; a package that does not build, or that ends without
// saying which test failed, counts as one failure.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	t := &tally{output: map[string][]string{}, blamed: map[string]bool{}}
	if err := run(t); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		t.failed = append(t.failed, "testrun")
	}
	for _, s := range t.skipped {
		fmt.Println("skipped:", s)
	}
	for _, f := range t.failed {
		fmt.Println("failed:", f)
	}
	fmt.Printf("%d passed, %d failed\n", t.passed, len(t.failed))
	if len(t.failed) > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

func run(t *tally) error {
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("go list ./...: %w", err)
	}
	var unit, integration []string
	for _, p := range strings.Fields(string(out)) {
		if strings.Contains(p+"/", "/integration/") {
			integration = append(integration, p)
		} else {
			unit = append(unit, p)
		}
	}
	if err := t.stage("compile", exec.Command("go", "build", "./...")); err != nil {
		return err
	}
	if err := t.stage("unit tests", goTest(unit...)); err != nil {
		return err
	}
	if err := t.stage("tests on a real Envoy", goTest(integration...)); err != nil {
		return err
	}
	// Modules of their own: they need modules that the program does not.
	for _, m := range []struct{ name, dir string }{
		{"tests on a real gRPC client", "integration/grpcxds"},
		{"tests beside opa-envoy-plugin", "integration/opaplugin"},
		{"tests of HTTP/2", "integration/h2spec"},
	} {
		tests := goTest("./...")
		tests.Dir = m.dir
		if err := t.stage(m.name, tests); err != nil {
			return err
		}
	}
	return nil
}

// goTest leaves go vet to make check: it would compile every dependency a
// second time.
func goTest(packages ...string) *exec.Cmd {
	return exec.Command("go", append([]string{"test", "-json", "-vet=off", "-count=1", "-timeout=9m"}, packages...)...)
}

// event is one line of go test -json, see go doc test2json.
type event struct {
	Action, Package, Test, Output, ImportPath string
}

type tally struct {
	passed          int
	failed, skipped []string
	output          map[string][]string // of tests and packages that still run
	blamed          map[string]bool     // packages of which a test or the build failed
}

// stage runs cmd and counts what it says. That cmd itself exits non-zero is
// news only where no test was blamed for it.
func (t *tally) stage(name string, cmd *exec.Cmd) error {
	begin, failedBefore := time.Now(), len(t.failed)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := t.read(stdout); err != nil {
		return errors.Join(err, cmd.Wait())
	}
	err = cmd.Wait()
	fmt.Printf("== %s: %.0f s\n", name, time.Since(begin).Seconds())
	if err != nil && len(t.failed) == failedBefore {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				os.Stdout.Write(line)
			} else {
				t.count(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) count(e event) {
	name := e.Package
	if e.Test != "" {
		name += " " + e.Test
	}
	switch e.Action {
	case "output":
		t.output[name] = append(t.output[name], e.Output)
	case "build-output":
		fmt.Print(e.Output)
	case "pass":
		if e.Test != "" {
			t.passed++
		} else {
			fmt.Print("ok   ", e.Package, "\n")
		}
		delete(t.output, name)
	case "skip":
		if e.Test != "" {
			t.skipped = append(t.skipped, name)
		}
		delete(t.output, name)
	case "fail":
		if e.Test != "" || !t.blamed[e.Package] {
			t.failed = append(t.failed, name)
			fmt.Print("--- ", name, "\n", strings.Join(t.output[name], ""))
		}
		if e.Test == "" {
			fmt.Print("FAIL ", e.Package, "\n")
		}
		t.blamed[e.Package] = true
		delete(t.output, name)
	}
}
