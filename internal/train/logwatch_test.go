package train

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestLogLines(t *testing.T) {
	for line, want := range map[string]string{
		" iteration       10/     100 | consumed samples: 160 | elapsed time per iteration (ms): 412.3 | learning rate: 1E-4 | lm loss: 1.234E+00 | grad norm: 0.512 |": "10 1.234 0.512 ",
		"{'loss': 0.5312, 'grad_norm': 1.25, 'learning_rate': 1e-05, 'epoch': 0.1}":                                                                                     "8 0.5312 1.25 ",
		"{'loss': '0.5312', 'grad_norm': 'nan', 'learning_rate': '1e-05'}":                                                                                              "8 0.5312  grad_norm",
		"[titan] step: 25  loss:  3.4567  grad_norm:  0.9123  memory: 12GiB":                                                                                            "25 3.4567 0.9123 ",
		"step 7 loss nan": "7   loss",
		"epoch 3 done":    "",
	} {
		e, ok := logLine(stepPatterns(), line, 7)
		got := ""
		if ok {
			value := func(name string) string {
				if v, there := e.values[name]; there {
					return fmt.Sprint(v)
				}
				return ""
			}
			got = fmt.Sprintf("%d %s %s %s", e.Step, value("loss"), value("grad_norm"), e.bad)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	for log, want := range map[string]string{
		"OSError: [Errno 28] No space left on device":   "the disk is full",
		"torch.OutOfMemoryError: CUDA out of memory.":   "memory is full",
		"kernel: NVRM: Xid (PCI:0000:65:00): 79, pid=1": "Xid 79",
		"[ERROR] EI0002: notify wait timeout":           "another rank stopped first",
		"all is well":                                   "",
	} {
		if got := explain("begin\n" + log + "\nend"); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}

// A log that grows and is copied whole each time is taken in line by line, once.
func TestLogTailer(t *testing.T) {
	l := &logTailer{}
	log := ""
	var got []string
	for i := range 20 {
		log += fmt.Sprintf("line %d\nhalf", i)
		l.rewind()
		for chunk := range slices.Chunk([]byte(log), 7) {
			if _, err := l.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		got = append(got, l.lines...)
		l.lines = nil
	}
	if len(got) != 20 || got[0] != "line 0" || got[19] != "halfline 19" {
		t.Errorf("%d lines: %q", len(got), got)
	}
}
