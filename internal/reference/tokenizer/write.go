package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ByteLevelFiles is what a pure byte-level tokenizer's directory says: the 256
// bytes are tokens 0 to 255, the added tokens follow from 256 on.
type ByteLevelFiles struct {
	Added        []AddedToken // Content and Special; IDs are given here, the rest is false
	EOS, PAD     string       // contents of added tokens; PAD may be empty
	ChatTemplate string       // Jinja; may be empty
	ModelMax     int          // model_max_length; 0 leaves it out
}

// WriteByteLevel writes tokenizer.json, tokenizer_config.json and, if there is
// a template, chat_template.jinja into dir, as the tokenizers and transformers
// packages read them. Each file appears whole or not at all.
func WriteByteLevel(dir string, f ByteLevelFiles) error {
	added := make([]AddedToken, 0, len(f.Added))
	contents := map[string]bool{}
	for i, a := range f.Added {
		if a.Content == "" || contents[a.Content] {
			return fmt.Errorf("added token %d: %q is empty or not the first of its kind", i, a.Content)
		}
		contents[a.Content] = true
		added = append(added, AddedToken{ID: 256 + i, Content: a.Content, Special: a.Special})
	}
	if f.EOS == "" || !contents[f.EOS] {
		return fmt.Errorf("the end of text %q is not among the added tokens", f.EOS)
	}
	if f.PAD != "" && !contents[f.PAD] {
		return fmt.Errorf("the padding %q is not among the added tokens", f.PAD)
	}
	tokenizer, err := tokenizerJSON(added)
	if err != nil {
		return err
	}
	if _, err := parse(tokenizer, nil); err != nil {
		return fmt.Errorf("check of the written tokenizer.json: %w", err)
	}
	config, err := configJSON(f)
	if err != nil {
		return err
	}
	err = errors.Join(
		writeFile(filepath.Join(dir, "tokenizer.json"), tokenizer),
		writeFile(filepath.Join(dir, "tokenizer_config.json"), config),
	)
	if f.ChatTemplate != "" {
		err = errors.Join(err, writeFile(filepath.Join(dir, "chat_template.jinja"), []byte(f.ChatTemplate)))
	}
	return err
}

// tokenizerJSON spells the file out in the order that the tokenizers package
// writes; vocab is built by hand because Go would sort its keys.
func tokenizerJSON(added []AddedToken) ([]byte, error) {
	var vocab bytes.Buffer
	for b := range 256 {
		key, err := json.Marshal(string(byteRune(byte(b))))
		if err != nil {
			return nil, err
		}
		if b > 0 {
			vocab.WriteByte(',')
		}
		fmt.Fprintf(&vocab, "%s:%d", key, b)
	}
	type byteLevel struct {
		Type           string `json:"type"`
		AddPrefixSpace bool   `json:"add_prefix_space"`
		TrimOffsets    bool   `json:"trim_offsets"`
		UseRegex       bool   `json:"use_regex"`
	}
	level := byteLevel{"ByteLevel", false, true, false}
	return marshal(struct {
		Version       string       `json:"version"`
		Truncation    *int         `json:"truncation"`
		Padding       *int         `json:"padding"`
		AddedTokens   []AddedToken `json:"added_tokens"`
		Normalizer    *int         `json:"normalizer"`
		PreTokenizer  byteLevel    `json:"pre_tokenizer"`
		PostProcessor *int         `json:"post_processor"`
		Decoder       byteLevel    `json:"decoder"`
		Model         any          `json:"model"`
	}{
		Version: "1.0", AddedTokens: added, PreTokenizer: level, Decoder: level,
		Model: struct {
			Type                    string          `json:"type"`
			Dropout                 *float64        `json:"dropout"`
			UnkToken                *string         `json:"unk_token"`
			ContinuingSubwordPrefix *string         `json:"continuing_subword_prefix"`
			EndOfWordSuffix         *string         `json:"end_of_word_suffix"`
			FuseUnk                 bool            `json:"fuse_unk"`
			ByteFallback            bool            `json:"byte_fallback"`
			IgnoreMerges            bool            `json:"ignore_merges"`
			Vocab                   json.RawMessage `json:"vocab"`
			Merges                  []string        `json:"merges"`
		}{Type: "BPE", Vocab: json.RawMessage("{" + vocab.String() + "}"), Merges: []string{}},
	})
}

func configJSON(f ByteLevelFiles) ([]byte, error) {
	return marshal(struct {
		Class    string `json:"tokenizer_class"`
		EOS      string `json:"eos_token"`
		PAD      string `json:"pad_token,omitempty"`
		ModelMax int    `json:"model_max_length,omitempty"`
		CleanUp  bool   `json:"clean_up_tokenization_spaces"`
	}{"PreTrainedTokenizerFast", f.EOS, f.PAD, f.ModelMax, false})
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

// writeFile writes a temporary file, syncs it, renames it and syncs the directory.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, openErr := os.Open(dir)
	if openErr != nil {
		return nil //nolint:nilerr // the file is in place; only its durability is unknown
	}
	defer d.Close()
	return d.Sync()
}
