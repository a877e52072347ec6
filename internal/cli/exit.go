package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
)

// Exit codes (docs: design of the command contract). Scripts depend on them.
const (
	exitDone        = 0
	exitGate        = 1 // a gate said no, or could not tell
	exitUsage       = 2 // bad usage or bad input
	exitEnvironment = 3 // disk, tool, network, permission
)

// exitCode carries a code up to Run; without an error it says nothing more.
type exitCode struct {
	code int
	err  error
}

func (e exitCode) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e exitCode) Unwrap() error { return e.err }

// gateSaidNo ends a command whose report has already been printed.
func gateSaidNo() error { return exitCode{code: exitGate} }

func badUsage(format string, args ...any) error {
	return exitCode{exitUsage, fmt.Errorf(format, args...)}
}

func environment(err error) error { return exitCode{exitEnvironment, err} }

// classify turns an error into an exit code: what the machine refused is the
// environment's fault, everything else the input's.
func classify(err error) int {
	var code exitCode
	if errors.As(err, &code) {
		return code.code
	}
	for _, e := range []error{
		fs.ErrPermission, syscall.ENOSPC, syscall.EROFS, syscall.EDQUOT, syscall.EADDRINUSE, syscall.EIO,
		syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ECONNREFUSED,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return exitEnvironment
		}
	}
	// Not net.Error: every system call's error number is one of those.
	var netErr *net.OpError
	if errors.As(err, &netErr) {
		return exitEnvironment
	}
	if env := environmentSentinels(); anyIs(err, env) {
		return exitEnvironment
	}
	return exitUsage
}

func anyIs(err error, targets []error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// table lines text up in columns; the header is underlined by spacing alone.
func table(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(cell))+2))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
