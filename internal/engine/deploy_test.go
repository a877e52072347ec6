package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/engine/enginetest"
	"tarbert/internal/executor"
	"tarbert/internal/progress"
)

var (
	fake = engine.Model{Dir: "/models/fake", Name: "fake"}
	cpu  = device.Device{Vendor: device.CPU}
)

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after 10 s: %s", what)
		}
	}
}

func TestDeployAndStop(t *testing.T) {
	ex := &enginetest.Executor{Run: enginetest.Serve(&enginetest.Server{Logits: logits})}
	d, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "sums-1-reference", fake, cpu, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "sums-1-reference" {
		t.Errorf("task %q", d.Name)
	}
	eventually(t, "the task is watched, so that its lease holds", func() bool { return slices.Equal(ex.Watched(), []string{d.Name}) })
	if _, err := d.Client().Score(t.Context(), [][]int{{1, 2, 3}}, 4); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := d.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if left := append(ex.Running(), ex.Watched()...); len(left) > 0 {
		t.Errorf("left after Stop: %v", left)
	}
}

func TestDeployReattaches(t *testing.T) {
	ex := &enginetest.Executor{Run: enginetest.Serve(&enginetest.Server{})}
	first, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "a", fake, cpu, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	first.Detach() // as if tarbert had been killed
	if len(ex.Watched()) > 0 {
		t.Errorf("watched after Detach: %v", ex.Watched())
	}
	again, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "a", fake, cpu, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again.URL != first.URL || !slices.Equal(ex.Running(), []string{"a"}) {
		t.Errorf("second deployment at %s of %v, first at %s", again.URL, ex.Running(), first.URL)
	}
	other := fake
	other.Dir = "/models/other"
	replaced, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "a", other, cpu, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer replaced.Detach()
	if replaced.Name != "a-2" || !slices.Equal(ex.Running(), []string{"a-2"}) {
		t.Errorf("another model under the name runs as %q; running %v", replaced.Name, ex.Running())
	}
	if err := replaced.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	last, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "a", fake, cpu, engine.Options{})
	if err != nil || last.Name != "a-3" {
		t.Fatalf("after two ended tasks: %+v, %v", last, err)
	}
	again.Detach()
	if err := last.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDeployTakesAnotherPortWhenOneIsTaken(t *testing.T) {
	serve := enginetest.Serve(&enginetest.Server{})
	var starts atomic.Int32
	ex := &enginetest.Executor{Run: func(ctx context.Context, task executor.Task, log io.Writer) int {
		if starts.Add(1) < 3 {
			fmt.Fprintf(log, "starting\nlisten tcp %s: bind: address already in use\n", task.Argv[1])
			return 3
		}
		return serve(ctx, task, log)
	}}
	d, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "a", fake, cpu, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "a-3" {
		t.Errorf("third task is %q", d.Name)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDeployFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	serve := enginetest.Serve(&enginetest.Server{})
	hang := func(ctx context.Context, _ executor.Task, log io.Writer) int {
		fmt.Fprintln(log, "loading shard 1 of 900")
		<-ctx.Done()
		return 143
	}
	crash := func(_ context.Context, _ executor.Task, log io.Writer) int {
		fmt.Fprint(log, strings.Repeat("noise\n", 2000), "model.safetensors: tensor lm_head.weight is missing\n")
		return 2
	}
	for _, tt := range []struct {
		name string
		run  func(context.Context, executor.Task, io.Writer) int
		eng  enginetest.Engine
		m    engine.Model
		port int
		want error
		says string
	}{
		{"exits", crash, enginetest.Engine{}, fake, 0, engine.ErrExited, "lm_head.weight is missing"},
		{"never ready", hang, enginetest.Engine{}, fake, 0, engine.ErrNotReady, "loading shard 1 of 900"},
		{"serves another model", serve, enginetest.Engine{}, engine.Model{Name: "other"}, 0, engine.ErrNotReady, `not "other"`},
		{"port taken", serve, enginetest.Engine{}, fake, taken, syscall.EADDRINUSE, "port " + strconv.Itoa(taken)},
		{"not supported", serve, enginetest.Engine{Refuse: io.ErrShortBuffer}, fake, 0, io.ErrShortBuffer, "deploy a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ex := &enginetest.Executor{Run: tt.run}
			dp := engine.Deployer{Executor: ex, Engine: tt.eng, Wait: 300 * time.Millisecond}
			_, err := dp.Deploy(t.Context(), "a", tt.m, cpu, engine.Options{Port: tt.port})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v; want %v and %q", err, tt.want, tt.says)
			}
			if len(err.Error()) > 6000 {
				t.Errorf("error is %d bytes long", len(err.Error()))
			}
			if left := append(ex.Running(), ex.Watched()...); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestDeployOnAFixedPortEverywhere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	ex := &enginetest.Executor{Run: enginetest.Serve(&enginetest.Server{})}
	d, err := engine.Deploy(t.Context(), ex, enginetest.Engine{}, "a", fake, cpu, engine.Options{Host: "0.0.0.0", Port: port})
	if err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(d.URL); err != nil || u.Host != net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) {
		t.Errorf("url %s, %v", d.URL, err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDeploymentExplainsADeadEngine(t *testing.T) {
	die := make(chan struct{})
	serve := enginetest.Serve(&enginetest.Server{})
	ex := &enginetest.Executor{Run: func(ctx context.Context, task executor.Task, log io.Writer) int {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-die:
				cancel()
			case <-ctx.Done():
			}
		}()
		serve(ctx, task, log)
		fmt.Fprintln(log, "out of memory")
		return 137
	}}
	var said atomic.Int32
	dp := engine.Deployer{Executor: ex, Engine: enginetest.Engine{}, Stage: "verify", Progress: func(progress.Update) { said.Add(1) }}
	d, err := dp.Deploy(t.Context(), "a", fake, cpu, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plain := errors.New("connection refused")
	if got := d.Explain(t.Context(), plain); got != plain {
		t.Errorf("alive: %v", got)
	}
	close(die)
	eventually(t, "the exit is seen", func() bool { return d.Status().State == executor.Exited })
	got := d.Explain(t.Context(), plain)
	if !errors.Is(got, engine.ErrExited) || !errors.Is(got, plain) || !strings.Contains(got.Error(), "out of memory") || !strings.Contains(got.Error(), "137") {
		t.Errorf("dead: %v", got)
	}
	d.Detach()
}
