package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestSoakArm64 runs this package's tests, the pinned bits among them, on
// emulated arm64 processors with and without the dot-product instruction.
func TestSoakArm64(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("takes a minute: set TARBERT_SOAK=1 to run it")
	}
	if runtime.GOARCH == "arm64" {
		t.Skip("this is arm64: the other tests ran on it")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		qemu, err = exec.LookPath("qemu-aarch64")
	}
	if err != nil {
		t.Skip("NOT RUN on arm64: neither qemu-aarch64-static nor qemu-aarch64 is installed (Debian: qemu-user-static or qemu-user)")
	}
	binary := filepath.Join(t.TempDir(), "kernel.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build for arm64: %v\n%s", err, out)
	}
	for _, c := range []struct {
		cpu, names string // the implementations it must find
		tests      string
	}{
		{"max", "neon (sdot), neon, go", "."},
		{"cortex-a72", "neon, go", "Pinned|Int8|Gemm"},
	} {
		run := exec.CommandContext(t.Context(), qemu, "-cpu", c.cpu, binary, "-test.short", "-test.v", "-test.run", c.tests)
		run.Env = append(os.Environ(), "TARBERT_SOAK=")
		out, err := run.CombinedOutput()
		if err != nil {
			t.Errorf("on %s: %v\n%s", c.cpu, err, out)
		}
		if want := "implementations: " + c.names + "\n"; !strings.Contains(string(out), want) {
			t.Errorf("on %s the pinned bits were not compared for %q:\n%s", c.cpu, want, out)
		}
	}
}
