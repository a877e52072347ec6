package internal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The layers of docs/architecture.md. A package may import packages of lower
// layers, and of its own only where allowed says so.
var layers = [][]string{
	// Values that import nothing of ours.
	{"gate", "progress", "device", "reward", "tensor", "store", "reference/kernel", "reference/jinja"},
	// Values and seams that build on them.
	{"spec", "executor", "engine", "checkpoint", "certificate", "tensor/gguf", "convert/kernel", "reference", "reference/tokenizer", "reference/oracle"},
	// What the reference model does on its own, and the drivers.
	{"reference/server", "reference/trainer",
		"device/cpu", "device/nvidia", "device/ascend", "executor/local", "engine/reference"},
	// The stages.
	{"label", "plan", "qualify", "train", "convert", "verify", "compare", "serve"},
	// What is foreseen of the whole release.
	{"forecast"},
	{"release"},
	{"web"},
	{"cli"},
}

// sideways lists the only edges inside a layer, and the only edges from a
// lower layer's package to the noun it needs.
var sideways = map[string][]string{
	"qualify":             {"plan", "train"}, // it tries a trainer as train's pool would run it
	"train":               {"plan"},          // whether to leave a pool is the plan's decision
	"engine":              {"executor"},
	"reference":           {},
	"reference/tokenizer": {},
	"reference/server":    {},
	"checkpoint":          {},
}

// onlyIn names modules that one package alone may import.
var onlyIn = map[string][]string{
	"modernc.org/sqlite":              {"store"},
	"github.com/spf13/cobra":          {"cli"},
	"html/template":                   {"web"},
	"k8s.io/":                         {"executor/kube"},
	"github.com/goccy/go-yaml":        {"spec"},
	"github.com/dlclark/regexp2":      {"reference/tokenizer"},
	"github.com/prometheus/client_go": {"reference/server", "gateway"},
}

// pure packages hold decisions: no processes, no network.
var pure = []string{"gate", "progress", "spec", "plan", "forecast", "tensor", "label", "reward", "convert"}

type pkg struct {
	ImportPath   string
	Dir          string
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles,TestGoFiles,XTestGoFiles", "tarbert/...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	found := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		found[p.ImportPath] = p
	}
	return found
}

// name is the path below internal, without the test-support packages' own
// ending: device/devicetest counts as device.
func name(importPath string) (string, bool) {
	n, ok := strings.CutPrefix(importPath, "tarbert/internal/")
	if !ok {
		return "", false
	}
	if strings.HasSuffix(n, "test") {
		n = filepath.Dir(n)
	}
	return n, true
}

func layerOf(n string) int {
	for i, l := range layers {
		if slices.Contains(l, n) {
			return i
		}
	}
	return -1
}

func TestImportsFollowTheArrows(t *testing.T) {
	for path, p := range packages(t) {
		from, ok := name(path)
		if !ok {
			continue
		}
		here := layerOf(from)
		if here < 0 {
			t.Errorf("%s is in no layer: add it to the table here and to docs/architecture.md", path)
			continue
		}
		for _, imp := range p.Imports {
			to, ok := name(imp)
			if !ok || to == from {
				continue
			}
			there := layerOf(to)
			driver := regexp.MustCompile(`^(device|executor|engine)/`).MatchString(to)
			switch {
			case slices.Contains(sideways[from], to):
			case driver && from != "cli":
				t.Errorf("%s imports the driver %s: only cli/drivers.go may", from, to)
			case there >= here:
				t.Errorf("%s (layer %d) imports %s (layer %d): arrows go down only", from, here, to, there)
			}
		}
	}
}

func TestDriversAreWiredInOneFile(t *testing.T) {
	files, err := filepath.Glob("cli/*.go")
	if err != nil {
		t.Fatal(err)
	}
	driver := regexp.MustCompile(`"tarbert/internal/(device|executor|engine)/[a-z]+"`)
	for _, f := range files {
		if filepath.Base(f) == "drivers.go" || strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if m := driver.Find(b); m != nil {
			t.Errorf("%s imports %s: wire drivers in cli/drivers.go", f, m)
		}
	}
}

func TestModulesStayWhereTheyBelong(t *testing.T) {
	for path, p := range packages(t) {
		from, ok := name(path)
		if !ok {
			continue
		}
		for _, imp := range p.Imports {
			for module, allowed := range onlyIn {
				if strings.HasPrefix(imp, module) && !slices.Contains(allowed, from) {
					t.Errorf("%s imports %s: only %v may", from, imp, allowed)
				}
			}
			if slices.Contains(pure, from) && (imp == "os/exec" || imp == "net" || imp == "net/http") {
				t.Errorf("%s imports %s, but it only decides", from, imp)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for path, p := range packages(t) {
		if !strings.HasPrefix(path, "tarbert/internal") {
			continue
		}
		if !slices.Contains(p.GoFiles, "doc.go") {
			t.Errorf("%s has no doc.go", path)
		}
		for _, banned := range []string{"util", "common", "core", "types", "models", "helpers", "manager", "service"} {
			if filepath.Base(path) == banned {
				t.Errorf("%s: %q says nothing; name the noun", path, banned)
			}
		}
	}
}

func TestNoInitAndNoMachineNames(t *testing.T) {
	initFunc := regexp.MustCompile(`(?m)^func init\(\)`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if initFunc.Match(b) {
			t.Errorf("%s has an init function: pass what it sets up", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesStayReadable(t *testing.T) {
	const most = 600 // lines; a file past 400 is worth a second look, past this it is split
	for path, p := range packages(t) {
		for _, f := range append(append([]string{}, p.GoFiles...), p.TestGoFiles...) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(b, []byte("\n")); n > most && !bytes.Contains(b, []byte("DO NOT EDIT")) {
				t.Errorf("%s/%s has %d lines, more than %d", path, f, n, most)
			}
		}
	}
}
