package local

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/executor"
)

// A task's processes are all seen, whoever is stopped is named, and a dump has
// every one of them even then.
func TestInspectAStoppedProcess(t *testing.T) {
	ex := fresh(t)
	// The child stops itself; the parent waits for it.
	start(t, ex, "a", `sh -c 'kill -STOP $$; exit 0' & wait`)
	eventually(t, "a stopped child", func() bool {
		all, err := ex.Processes(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		return len(all) == 2 && !all[0].Stopped && all[1].Stopped && strings.Contains(all[1].Command, "STOP")
	})
	var dump bytes.Buffer
	if err := ex.Dump(t.Context(), "a", &dump); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"state T", "kill -STOP", "printed on SIGABRT"} {
		if !strings.Contains(dump.String(), want) {
			t.Errorf("the dump lacks %q:\n%s", want, dump.String())
		}
	}
	if err := ex.Stop(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if all, err := ex.Processes(t.Context(), "a"); err != nil || len(all) != 0 {
		t.Errorf("after Stop: %+v, %v", all, err)
	}
}

// Where py-spy is installed, a Python process's stacks come from it, and the
// process lives on. The py-spy here is one of our own: what it prints is not
// ours to test.
func TestDumpAsksPySpy(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "py-spy"), []byte("#!/bin/sh\necho \"stack of $3: all_reduce\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ex := fresh(t)
	if err := ex.Start(t.Context(), executor.Task{Name: "p", Argv: []string{python, "-c", "import time; open('up', 'w'); time.sleep(600)"}, Dir: bin}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "python is up", func() bool { _, err := os.Stat(filepath.Join(bin, "up")); return err == nil })
	var dump bytes.Buffer
	if err := ex.Dump(t.Context(), "p", &dump); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(dump.String(), "all_reduce") {
		t.Errorf("dump:\n%s", dump.String())
	}
	if all, err := ex.Processes(t.Context(), "p"); err != nil || len(all) != 1 {
		t.Errorf("after the dump: %+v, %v; want the process alive", all, err)
	}
	if err := ex.Stop(t.Context(), "p", 0); err != nil {
		t.Fatal(err)
	}
}

// The real py-spy: make it known by TARBERT_PY_SPY=/path/to/py-spy.
func TestDumpByTheRealPySpy(t *testing.T) {
	spy := os.Getenv("TARBERT_PY_SPY")
	if spy == "" {
		t.Skip("TARBERT_PY_SPY is not set")
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	t.Setenv("PATH", filepath.Dir(spy)+":"+os.Getenv("PATH"))
	ex, dir := fresh(t), t.TempDir()
	script := "import time\ndef waits_for_its_peers():\n    open('up', 'w')\n    time.sleep(600)\nwaits_for_its_peers()\n"
	if err := ex.Start(t.Context(), executor.Task{Name: "p", Argv: []string{python, "-c", script}, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "python is up", func() bool { _, err := os.Stat(filepath.Join(dir, "up")); return err == nil })
	var dump bytes.Buffer
	if err := ex.Dump(t.Context(), "p", &dump); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(dump.String(), "waits_for_its_peers (<string>:4)") {
		t.Errorf("dump:\n%s", dump.String())
	}
	if err := ex.Stop(t.Context(), "p", 0); err != nil {
		t.Fatal(err)
	}
}
