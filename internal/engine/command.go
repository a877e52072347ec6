package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
)

// Command is any engine that a command line starts: "{port}" in it stands for
// the port to listen on.
type Command struct{ Argv []string }

var _ Engine = (*Command)(nil)

// commandLease ends an engine that nobody has watched for this long.
const commandLease = time.Minute

// SplitCommand splits a command line at blanks; 'single' and "double" quotes
// keep them together, and a backslash keeps the next character as it is.
func SplitCommand(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	started, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, started = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, started = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if started {
				out = append(out, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("command %q: a quote or a backslash is left open", line)
	}
	if started {
		out = append(out, word.String())
	}
	if len(out) == 0 {
		return nil, errors.New("the command is empty")
	}
	return out, nil
}

// Name is the program's.
func (c *Command) Name() string { return c.Argv[0] }

// Supports everything: what the command cannot do, it says itself.
func (*Command) Supports(Model, device.Device) error { return nil }

// Task is the command on the port.
func (c *Command) Task(name string, _ Model, _ device.Device, o Options) (executor.Task, error) {
	argv, named := slices.Clone(c.Argv), false
	for i, a := range argv {
		if strings.Contains(a, "{port}") {
			argv[i], named = strings.ReplaceAll(a, "{port}", strconv.Itoa(o.Port)), true
		}
	}
	if !named {
		return executor.Task{}, fmt.Errorf("command %q does not say where {port} goes", strings.Join(c.Argv, " "))
	}
	return executor.Task{Name: name, Argv: argv, Lease: commandLease}, nil
}

// Ready asks for at least one model: not every engine has /health.
func (*Command) Ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	models, err := (&Client{URL: url, Patience: time.Nanosecond}).Models(ctx)
	if err == nil && len(models) == 0 {
		err = fmt.Errorf("%s lists no model", url)
	}
	return err
}
