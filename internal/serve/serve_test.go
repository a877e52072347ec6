package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/engine/enginetest"
	"tarbert/internal/executor"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

func input(ex *enginetest.Executor) Input {
	return Input{
		Executor: ex, Engine: enginetest.Engine{}, TaskName: "sums-1-serve",
		Model: engine.Model{Dir: "/model", Name: "fake"}, Device: device.Device{Vendor: device.CPU},
		Spec: spec.Serve{Addr: "127.0.0.1:0", Smoke: "12+30="}, Certificate: "/certificate.json",
		CheckCertificate: func(context.Context, string) error { return nil }, Wait: 10 * time.Second,
	}
}

func serving(s *enginetest.Server) *enginetest.Executor {
	return &enginetest.Executor{Run: enginetest.Serve(s)}
}

// clock moves a fixed step at every look.
func clock(step time.Duration) func() time.Time {
	var mu sync.Mutex
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(step)
		return at
	}
}

func TestServesAndStops(t *testing.T) {
	ex := serving(&enginetest.Server{Reply: func(prompt string, _ []int, _ int, _ int64) (string, []int) {
		return "42 " + prompt, slices.Repeat([]int{7}, 32)
	}})
	in := input(ex)
	in.Now = clock(2 * time.Second)
	checked := ""
	in.CheckCertificate = func(_ context.Context, path string) error { checked = path; return nil }
	r, live, err := Run(t.Context(), in)
	if err != nil || live != nil {
		t.Fatalf("live %v, %v", live, err)
	}
	if !r.Gate.Passed() || r.Answer != "42 12+30=" || !strings.Contains(r.Chat, "12+30=") || checked != "/certificate.json" {
		t.Errorf("%+v", r)
	}
	// 8 requests of 32 tokens between two looks at the clock.
	if r.TokensPerSecond != 128 || r.ReadySeconds != 2 || r.Batch != 8 {
		t.Errorf("%g tokens/s, ready after %g s", r.TokensPerSecond, r.ReadySeconds)
	}
	if len(r.Gate.Checks) != 7 {
		t.Errorf("checks %+v", r.Gate.Checks)
	}
	if left := append(ex.Running(), ex.Watched()...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestUpStaysUp(t *testing.T) {
	ex := serving(&enginetest.Server{})
	in := input(ex)
	in.Up = true
	r, live, err := Run(t.Context(), in)
	if err != nil || live == nil {
		t.Fatalf("%+v, live %v, %v", r, live, err)
	}
	if err := live.Client().Health(t.Context()); err != nil || live.URL != r.URL {
		t.Errorf("%s, %s: %v", live.URL, r.URL, err)
	}
	if err := live.Stop(t.Context()); err != nil || len(ex.Running()) > 0 {
		t.Errorf("%v; running %v", err, ex.Running())
	}
}

func TestNoCertificateNoEndpoint(t *testing.T) {
	started := false
	ex := &enginetest.Executor{Run: func(context.Context, executor.Task, io.Writer) int { started = true; return 0 }}
	in := input(ex)
	in.Up = true
	in.CheckCertificate = func(context.Context, string) error { return errors.New("model/weights.bin: changed") }
	r, live, err := Run(t.Context(), in)
	if err != nil || live != nil || started {
		t.Fatalf("live %v, started %v, %v", live, started, err)
	}
	if r.Gate.Verdict != gate.Fail || !strings.Contains(r.Gate.Reason, "weights.bin: changed") {
		t.Errorf("%+v", r.Gate)
	}
	in.CheckCertificate = nil
	if _, _, err := Run(t.Context(), in); err == nil || started {
		t.Errorf("no check at all: %v, started %v", err, started)
	}
}

func TestEndpointsThatDoNotAnswerFail(t *testing.T) {
	for fault, check := range map[enginetest.Fault]string{
		enginetest.ServerError: "completions", enginetest.EmptyText: "completions", enginetest.StreamEndsEarly: "completions stream",
		enginetest.ChatNotFound: "chat", enginetest.TruncatedJSON: "completions", enginetest.NoTokenIDs: "speed",
	} {
		ex := serving(&enginetest.Server{Fault: fault})
		in := input(ex)
		in.Up = true
		r, live, err := Run(t.Context(), in)
		if err != nil || live != nil {
			t.Errorf("%s: live %v, %v", fault, live, err)
			continue
		}
		if i := slices.IndexFunc(r.Gate.Checks, func(c gate.Check) bool { return c.Name == check }); r.Gate.Verdict != gate.Fail || i < 0 || r.Gate.Checks[i].Verdict != gate.Fail {
			t.Errorf("%s: %+v, want %s to fail", fault, r.Gate, check)
		}
		if left := ex.Running(); len(left) > 0 {
			t.Errorf("%s left %v", fault, left)
		}
	}
}

func TestErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	_, port, _ := net.SplitHostPort(taken)
	in := input(serving(&enginetest.Server{}))
	in.Spec.Addr = taken
	if _, _, err := Run(t.Context(), in); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "port "+port) {
		t.Errorf("port in use: %v", err)
	}
	for _, addr := range []string{"", "8000", "127.0.0.1:http", "127.0.0.1:70000"} {
		in.Spec.Addr = addr
		if _, _, err := Run(t.Context(), in); err == nil || !strings.Contains(err.Error(), "serve.addr") {
			t.Errorf("address %q: %v", addr, err)
		}
	}
	in = input(&enginetest.Executor{Run: func(_ context.Context, _ executor.Task, log io.Writer) int {
		fmt.Fprintln(log, "config.json: unknown architecture")
		return 2
	}})
	if _, _, err := Run(t.Context(), in); !errors.Is(err, engine.ErrExited) || !strings.Contains(err.Error(), "unknown architecture") {
		t.Errorf("engine that exits: %v", err)
	}
}

func TestInterruptedStopsTheEndpoint(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ex := serving(&enginetest.Server{Reply: func(string, []int, int, int64) (string, []int) { cancel(); return "42", []int{4} }})
	in := input(ex)
	in.Up = true
	if r, live, err := Run(ctx, in); !errors.Is(err, context.Canceled) || live != nil {
		t.Errorf("%+v, %v, %v", r, live, err)
	}
	if left := ex.Running(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
