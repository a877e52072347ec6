package reference

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestSoakArm64 holds the model on an emulated arm64 processor to the golden
// vectors and to its own bits for any batch, cache and number of threads.
func TestSoakArm64(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("takes minutes: set TARBERT_SOAK=1 to run it")
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
	binary := filepath.Join(t.TempDir(), "reference.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build for arm64: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), qemu, "-cpu", "max", binary, "-test.short", "-test.v", "-test.run", "Agree|BitsDoNotDependOnHow")
	run.Env = append(os.Environ(), "TARBERT_SOAK=")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("on arm64: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
