package server

import (
	"net/http"
)

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if s.closing.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": s.o.Version})
}

func (s *Server) serverLoad(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]int64{"server_load": s.load.Load()})
}

// modelCard is one entry of /v1/models.
type modelCard struct {
	ID         string       `json:"id"`
	Object     string       `json:"object"`
	Created    int64        `json:"created"`
	Owner      string       `json:"owned_by"`
	Root       string       `json:"root"`
	Parent     *string      `json:"parent"`
	Context    int          `json:"max_model_len"`
	Permission []permission `json:"permission"`
}

type permission struct {
	ID            string  `json:"id"`
	Object        string  `json:"object"`
	Created       int64   `json:"created"`
	CreateEngine  bool    `json:"allow_create_engine"`
	Sampling      bool    `json:"allow_sampling"`
	Logprobs      bool    `json:"allow_logprobs"`
	SearchIndices bool    `json:"allow_search_indices"`
	View          bool    `json:"allow_view"`
	FineTuning    bool    `json:"allow_fine_tuning"`
	Organization  string  `json:"organization"`
	Group         *string `json:"group"`
	Blocking      bool    `json:"is_blocking"`
}

func (s *Server) models(w http.ResponseWriter, r *http.Request) {
	created := s.started.Unix()
	cards := []modelCard{}
	for _, name := range append([]string{s.o.Model}, s.o.Aliases...) {
		cards = append(cards, modelCard{
			ID: name, Object: "model", Created: created, Owner: "tarbert", Root: s.o.Root, Context: s.o.Context,
			Permission: []permission{{
				ID: "modelperm-" + s.print, Object: "model_permission", Created: created,
				Sampling: true, Logprobs: true, View: true, Organization: "*",
			}},
		})
	}
	writeJSON(w, http.StatusOK, struct {
		Object string      `json:"object"`
		Data   []modelCard `json:"data"`
	}{"list", cards})
}

// tokenize answers with the ids of a prompt or of a rendered chat.
func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	f, e := s.readBody(w, r)
	if e != nil {
		writeError(w, e)
		return
	}
	var text string
	special := f.bool("add_special_tokens", true)
	if _, chat := f.get("messages"); chat {
		special = f.bool("add_special_tokens", false)
		text, e = s.renderChat(f)
	} else if raw, ok := f.get("prompt"); ok {
		var wrong *wrong
		if text, wrong = toString(raw); wrong != nil {
			f.add(wrong.kind, "body.prompt", wrong.msg, describe(raw))
		}
	} else {
		f.missing("prompt")
	}
	model, names := f.string("model", ""), f.bool("return_token_strs", false)
	for _, e := range []*apiError{f.err(), e, s.checkModel(model)} {
		if e != nil {
			writeError(w, e)
			return
		}
	}
	ids := s.tok.Encode(text)
	if special {
		ids = s.tok.EncodeSpecial(text)
	}
	answer := struct {
		Count   int      `json:"count"`
		Context int      `json:"max_model_len"`
		Tokens  []int    `json:"tokens"`
		Names   []string `json:"token_strs"`
	}{len(ids), s.o.Context, ids, nil}
	if names {
		answer.Names = make([]string, len(ids))
		for i, id := range ids {
			answer.Names[i] = s.tok.Token(id)
		}
	}
	writeJSON(w, http.StatusOK, answer)
}

// detokenize answers with the text of ids.
func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) {
	f, e := s.readBody(w, r)
	if e != nil {
		writeError(w, e)
		return
	}
	if _, ok := f.get("tokens"); !ok {
		f.missing("tokens")
	}
	ids := list(f, "tokens", toID)
	model := f.string("model", "")
	for _, e := range []*apiError{f.err(), s.checkModel(model)} {
		if e != nil {
			writeError(w, e)
			return
		}
	}
	for _, id := range ids {
		if id >= s.limits.vocab && id >= s.tok.Size() {
			writeError(w, refuse("Token id %d is out of vocabulary", id))
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string]string{"prompt": s.tok.Decode(ids)})
}

func (s *Server) tokenizerInfo(w http.ResponseWriter, _ *http.Request) {
	c := s.tok.Config()
	info := map[string]any{
		"tokenizer_class": c.Class, "backend": "tarbert", "model_max_length": s.o.Context,
		"chat_template": c.ChatTemplate, "name_or_path": s.o.Root, "is_local": true,
	}
	for name, token := range c.Special {
		info[name] = token
	}
	writeJSON(w, http.StatusOK, info)
}
