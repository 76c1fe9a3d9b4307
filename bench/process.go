package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// process is a server in a process of its own.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func launch(kind, dir string, nodes int) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-serve", kind, "-dir", dir, "-nodes", strconv.Itoa(nodes))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd, in: in, out: bufio.NewScanner(out)}, nil
}

func (p *process) stop() {
	p.in.Close()
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// ask sends a command and returns the number that the server answers.
func (p *process) ask(command string) (int64, error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return 0, fmt.Errorf("%s: the server is gone: %w", command, err)
	}
	if !p.out.Scan() {
		return 0, fmt.Errorf("%s: the server is gone: %w", command, errors.Join(p.out.Err(), io.ErrUnexpectedEOF))
	}
	return strconv.ParseInt(p.out.Text(), 10, 64)
}

func (p *process) do(command string) error {
	_, err := p.ask(command)
	return err
}
