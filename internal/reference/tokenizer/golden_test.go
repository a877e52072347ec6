package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type golden struct {
	Cases []struct {
		Text    string `json:"text"`
		IDs     []int  `json:"ids"`
		Decoded string `json:"decoded"`
	} `json:"cases"`
	Chats []struct {
		Messages json.RawMessage `json:"messages"`
		Options  json.RawMessage `json:"options"`
		Text     string          `json:"text"`
		IDs      []int           `json:"ids"`
	} `json:"chats"`
}

func readGolden(t *testing.T, family string) (*Tokenizer, golden) {
	t.Helper()
	dir := filepath.Join("testdata", family)
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) < 50 || len(g.Chats) < 5 {
		t.Fatalf("%s: %d cases and %d chats: not the golden file", dir, len(g.Cases), len(g.Chats))
	}
	return tok, g
}

func TestAgreesWithTransformers(t *testing.T) {
	for _, family := range []string{"qwen", "deepseek"} {
		t.Run(family, func(t *testing.T) {
			tok, g := readGolden(t, family)
			for _, c := range g.Cases {
				ids := tok.Encode(c.Text)
				if diff := cmp.Diff(c.IDs, ids); diff != "" {
					t.Errorf("Encode(%q): %s", c.Text, diff)
				}
				if decoded := tok.Decode(c.IDs); decoded != c.Decoded {
					t.Errorf("Decode of %q: %q, want %q", c.Text, decoded, c.Decoded)
				}
			}
			for i, c := range g.Chats {
				text, err := tok.Chat(c.Messages, c.Options)
				if err != nil {
					t.Errorf("chat %d: %v", i, err)
					continue
				}
				if diff := cmp.Diff(c.Text, text); diff != "" {
					t.Errorf("chat %d: %s", i, diff)
				}
				if diff := cmp.Diff(c.IDs, tok.Encode(text)); diff != "" {
					t.Errorf("chat %d's ids: %s", i, diff)
				}
			}
		})
	}
}

func TestEOSIsReadFromTheConfig(t *testing.T) {
	qwen, _ := readGolden(t, "qwen")
	if diff := cmp.Diff([]int{1201}, qwen.EOS()); diff != "" {
		t.Error(diff)
	}
	deepseek, _ := readGolden(t, "deepseek")
	if diff := cmp.Diff([]int{1201}, deepseek.EOS()); diff != "" {
		t.Error(diff)
	}
}
