package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestSoakArm64 runs this package's tests on an emulated arm64 processor.
func TestSoakArm64(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("builds for another processor: set TARBERT_SOAK=1 to run it")
	}
	if runtime.GOARCH == "arm64" {
		t.Skip("this is arm64: the other tests ran on it")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("not run: install qemu-user-static for qemu-aarch64-static")
	}
	binary := filepath.Join(t.TempDir(), "kernel.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build for arm64: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), qemu, binary, "-test.v")
	run.Env = append(os.Environ(), "TARBERT_SOAK=")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "/neon ("); n < 8 {
		t.Errorf("%d comparisons with NEON:\n%s", n, out)
	}
}
