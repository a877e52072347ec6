package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What starts the trainer in a pool: the train section says it, a pool may say otherwise.
func TestTrainerOf(t *testing.T) {
	base := baseText(t)
	type of struct {
		Name    string
		Command []string
	}
	for _, tt := range []struct {
		name, train string
		pools       string
		want        map[string]of
	}{
		{"nobody says anything", "", "", map[string]of{"here": {Name: "reference"}, "there": {Name: "reference"}}},
		{
			"one script for all", "trainer: command\n  command: [python3, ./data/problems.jsonl, --fast, data]", "",
			map[string]of{"here": {"command", []string{"python3", "DIR/data/problems.jsonl", "--fast", "data"}}, "there": {"command", []string{"python3", "DIR/data/problems.jsonl", "--fast", "data"}}},
		},
		{
			"two kinds of chips, two scripts", "trainer: command\n  command: [python3, ./data/problems.jsonl]", ", command: [./data/annotations.jsonl]",
			map[string]of{"here": {"command", []string{"python3", "DIR/data/problems.jsonl"}}, "there": {"command", []string{"DIR/data/annotations.jsonl"}}},
		},
		{
			"every pool its own, and none in the train section", "trainer: command", ", command: [sh, ./data/../data/problems.jsonl]",
			map[string]of{"there": {"command", []string{"sh", "DIR/data/problems.jsonl"}}},
		},
		{
			"a script here, PyTorch there", "trainer: command\n  command: [train]", ", trainer: torchrun",
			map[string]of{"here": {"command", []string{"train"}}, "there": {Name: "torchrun"}},
		},
		{
			"PyTorch here, a script there", "trainer: torchrun", ", trainer: command, command: [train, -x]",
			map[string]of{"here": {Name: "torchrun"}, "there": {"command", []string{"train", "-x"}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := baseDir(t)
			text := strings.Replace(base, "  model: model\n", "  model: model\n  "+tt.train+"\n", 1)
			roles := "[fallback]"
			if _, both := tt.want["here"]; !both {
				text = strings.Replace(text, "roles: [fallback, target]", "roles: [target]", 1)
			}
			text = strings.Replace(text, "pools:\n", "pools:\n  - {name: there, vendor: cpu, roles: "+roles+tt.pools+"}\n", 1)
			if err := os.WriteFile("release.yaml", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := Load("release.yaml")
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]of{}
			for pool := range tt.want {
				name, command := s.TrainerOf(pool)
				for i, e := range command {
					if rest, inside := strings.CutPrefix(e, dir+string(filepath.Separator)); inside {
						command[i] = "DIR/" + filepath.ToSlash(rest)
					}
				}
				got[pool] = of{name, command}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
