package reference

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/engine/enginetest"
	"tarbert/internal/executor"
)

var cpu = device.Device{Vendor: device.CPU}

func TestTask(t *testing.T) {
	got, err := New("/bin/tarbert").Task("sums-1-candidate",
		engine.Model{Dir: "/m", Name: "sums", Format: "w8a8-ascend", Architecture: "deepseek_v3"}, cpu,
		engine.Options{Port: 8123, Precision: "w8a8", Threads: 2})
	want := executor.Task{
		Name: "sums-1-candidate", Lease: lease,
		Argv: []string{"/bin/tarbert", "serve", "/m", "--precision", "w8a8", "--addr", "127.0.0.1:8123", "--threads", "2", "--name", "sums"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	bare, err := New("tarbert").Task("x", engine.Model{Dir: "/m"}, cpu, engine.Options{Host: "::1", Port: 1})
	if diff := cmp.Diff([]string{"tarbert", "serve", "/m", "--addr", "[::1]:1"}, bare.Argv); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestRefusals(t *testing.T) {
	ok := engine.Model{Dir: "/m", Format: "bf16", Architecture: "qwen3"}
	with := func(f func(*engine.Model)) engine.Model { m := ok; f(&m); return m }
	for _, tt := range []struct {
		name string
		m    engine.Model
		d    device.Device
		o    engine.Options
		says string
	}{
		{"device", ok, device.Device{Vendor: device.NVIDIA}, engine.Options{Port: 1}, "not on nvidia"},
		{"format", with(func(m *engine.Model) { m.Format = "gguf-q8_0" }), cpu, engine.Options{Port: 1}, "gguf-q8_0"},
		{"architecture", with(func(m *engine.Model) { m.Architecture = "llama" }), cpu, engine.Options{Port: 1}, "llama"},
		{"precision", ok, cpu, engine.Options{Port: 1, Precision: "fp8"}, "fp8"},
		{"port", ok, cpu, engine.Options{}, "port 0"},
		{"directory", with(func(m *engine.Model) { m.Dir = "" }), cpu, engine.Options{Port: 1}, "no directory"},
	} {
		if _, err := New("tarbert").Task("x", tt.m, tt.d, tt.o); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
	if _, err := New().Task("x", ok, cpu, engine.Options{Port: 1}); err == nil {
		t.Error("no command: no error")
	}
}

func TestReady(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{})
	e := New("tarbert")
	if err := e.Ready(t.Context(), s.URL); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := e.Ready(t.Context(), s.URL); err == nil {
		t.Error("a closed server is ready")
	}
}
