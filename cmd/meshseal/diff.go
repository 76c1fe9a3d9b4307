package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"meshseal/mesh/changes"
	"meshseal/snapshot"
)

func diffCommand() *cobra.Command {
	var format *output
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what differs between two snapshots",
		Long: `Show what differs between the snapshot files A and B: settings of the mesh, of
proxies, workloads and waivers; of a changed resource each field by its path, as
in Envoy's YAML; of a policy each line.

  +  added       -  removed       ~  changed       >  in another order

Marks, and the names that the build gives to routes, follow from the rest and are
shown only where nothing else differs. Colours are used on a terminal, unless
NO_COLOR is set.

Exit codes: 0 the same, 1 different, 2 a file cannot be read, or wrong usage.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := readDraft(args[0])
			if err != nil {
				return err
			}
			b, err := readDraft(args[1])
			if err != nil {
				return err
			}
			found := append([]changes.Change{}, changes.Between(a, b)...) // an empty list is written as one
			if err := format.write(c.OutOrStdout(), found, func(w io.Writer) error {
				return writeChanges(&painter{w: w, on: isTerminal(w) && wantsColour(os.Getenv)}, found)
			}); err != nil {
				return err
			}
			if len(found) > 0 {
				return finding(nil)
			}
			if a.Root() != b.Root() {
				return errors.New("the roots differ and no difference was found: this is a defect of meshseal")
			}
			return nil
		},
	}
	format = outputFlag(c)
	return c
}

func writeChanges(p *painter, all []changes.Change) error {
	for _, c := range all {
		head := c.Change
		if len(c.Fields) > 0 || c.Text != "" {
			head.Before, head.After = "", "" // digests, which the lines below say in full
		}
		p.line(bold, head.String())
		for _, f := range c.Fields {
			p.field(f)
		}
		if c.MoreFields > 0 {
			p.line("", fmt.Sprintf("  … and %d more fields", c.MoreFields))
		}
		for line := range strings.Lines(c.Text) {
			line = strings.TrimSuffix(line, "\n")
			p.line(ofLine(line), "  "+line)
		}
		if c.MoreLines > 0 {
			p.line("", fmt.Sprintf("  … and %d more lines", c.MoreLines))
		}
	}
	return p.err
}

// colour is an escape sequence of ECMA-48, "Select Graphic Rendition".
type colour string

const (
	bold   colour = "\x1b[1m"
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	cyan   colour = "\x1b[36m"
	plain  colour = "\x1b[0m"
)

// painter writes lines, in colours if it is on. It keeps the first error.
type painter struct {
	w   io.Writer
	on  bool
	err error
}

func (p *painter) field(f changes.Field) {
	switch f.Op {
	case snapshot.Added:
		line := "  + " + f.Path + ": " + f.After
		if f.Where != "" {
			line += " (" + f.Where + ")"
		}
		p.line(green, line)
	case snapshot.Removed:
		p.line(red, "  - "+f.Path+": "+f.Before)
	case changes.Moved:
		p.line(cyan, "  > "+f.Path+": "+f.Before+" -> "+f.After)
	default:
		p.line(yellow, "  ~ "+f.Path+": "+cmp.Or(f.Before, `""`)+" -> "+cmp.Or(f.After, `""`))
	}
}

func (p *painter) line(c colour, text string) {
	if text = visible(text); p.on && c != "" {
		text = string(c) + text + string(plain)
	}
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, text)
	}
}

// ofLine is the colour of a line in the unified format.
func ofLine(line string) colour {
	switch {
	case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
		return bold
	case strings.HasPrefix(line, "@@"):
		return cyan
	case strings.HasPrefix(line, "+"):
		return green
	case strings.HasPrefix(line, "-"):
		return red
	}
	return ""
}

// visible escapes what a terminal would act on, or not show: a snapshot shall
// not decide how it is reviewed.
func visible(s string) string {
	odd := func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }
	if !strings.ContainsFunc(s, odd) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if odd(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// wantsColour follows no-color.org: any NO_COLOR that is not empty.
func wantsColour(env func(string) string) bool {
	return env("NO_COLOR") == "" && env("TERM") != "dumb"
}
