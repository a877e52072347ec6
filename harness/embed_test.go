package harness

import (
	"os"
	"path/filepath"
	"testing"
)

// What is written out is what is in the binary, also after somebody changed it,
// and the same binary uses the same folder.
func TestMaterialise(t *testing.T) {
	root := t.TempDir()
	dir, err := Materialise(root)
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("*.py")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no programs beside this test: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "launch.py"), []byte("import antigravity"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := Materialise(root); err != nil || again != dir {
		t.Fatalf("again: %s, %v; want %s", again, err, dir)
	}
	for _, name := range sources {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != string(want) {
			t.Errorf("%s: %v, %d bytes; want the %d beside this test", name, err, len(got), len(want))
		}
	}
}
