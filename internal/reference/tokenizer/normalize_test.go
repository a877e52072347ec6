package tokenizer

import (
	"encoding/json"
	"os"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// TestNormalFormsAgreeWithTokenizers: late marks, long runs of marks and
// compositions, as the tokenizers package normalizes them.
func TestNormalFormsAgreeWithTokenizers(t *testing.T) {
	b, err := os.ReadFile("testdata/normal.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][][2]string
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for name, f := range forms {
		if len(all[name]) < 100 {
			t.Errorf("%d cases of %s", len(all[name]), name)
		}
		for _, c := range all[name] {
			if got := normalForm(f)(c[0]); got != c[1] {
				t.Errorf("%s of %+q is %+q, want %+q", name, c[0], got, c[1])
			}
		}
	}
}

// TestNormalizeMarksIsTheStandard: where x/text puts no joiner and Unicode 9
// knows every character, both ways give the same.
func TestNormalizeMarksIsTheStandard(t *testing.T) {
	alphabet := []rune("aqéùﬁがか中각각\u0301\u0323\u0334\u0308\u0344\u0345\u0f71\u0f72\u0f73\u1f82\u1e69\u0958\ufb2c")
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOfN(rapid.SampledFrom(alphabet), 0, 7).Draw(t, "text"))
		for name, f := range forms {
			if got, want := normalizeMarks(f, s), f.String(s); got != want {
				t.Fatalf("%s of %+q is %+q, want %+q", name, s, got, want)
			}
		}
	})
}

func FuzzNormalForm(f *testing.F) {
	f.Add("e\u0301\u0323")
	f.Add("a\u1df6\u0301")
	f.Add("\xff\u0301")
	f.Fuzz(func(t *testing.T, s string) {
		nfc := normalForm(norm.NFC)
		once := nfc(s)
		if utf8.ValidString(s) && nfc(once) != once {
			t.Errorf("%+q: normalizing again changes %+q to %+q", s, once, nfc(once))
		}
	})
}
