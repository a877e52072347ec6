package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
)

// Options of a server. The zero value serves; what is zero gets the default.
type Options struct {
	Model         string        // what clients ask for; default "model"
	Aliases       []string      // further names for it
	Root          string        // /v1/models' root; default Model
	Version       string        // /version's answer; default "0"
	APIKeys       []string      // none: everybody may
	Context       int           // tokens of prompt and answer; default and most: max_position_embeddings
	MaxRunning    int           // sequences in one batch; default 256
	MaxWaiting    int           // sequences that wait; more are refused with 503; default 4096
	MaxBatch      int           // tokens in one step; default 2048, at least MaxRunning
	KVTokens      int           // tokens in all caches; default 65,536, at least Context
	MaxLogprobs   int           // log-probabilities per token; default 20, -1: the whole vocabulary
	MaxBody       int64         // bytes of a request; default 16 MiB
	TokenizerInfo bool          // answer /tokenizer_info
	Defaults      Defaults      // sampling where a request does not say
	Drain         time.Duration // how long Close lets running requests finish; default 10 s

	Now     func() time.Time // default time.Now
	Entropy func() uint64    // seeds for requests without one; default crypto/rand
}

// Server is an http.Handler. Close ends it.
type Server struct {
	o         Options
	tok       *tokenizer.Tokenizer
	limits    limitsOf
	metrics   *metrics
	scheduler *scheduler
	routes    map[string]map[string]http.HandlerFunc
	print     string // system_fingerprint
	started   time.Time
	load      atomic.Int64
	closing   atomic.Bool
	closed    sync.Once
}

// New starts a server for m. Its goroutine ends with Close.
func New(m *reference.Model, tok *tokenizer.Tokenizer, o Options) *Server {
	c := m.Config()
	return newServer(adapter{m}, c.VocabSize, c.MaxPositionEmbeddings, tok, o)
}

func newServer(m model, vocab, longest int, tok *tokenizer.Tokenizer, o Options) *Server {
	o = o.withDefaults(longest)
	s := &Server{o: o, tok: tok, started: o.Now()}
	s.limits = limitsOf{context: o.Context, vocab: vocab, maxLogprobs: o.MaxLogprobs, maxChoices: o.MaxWaiting}
	sum := sha256.Sum256([]byte(o.Version + "\x00" + o.Model + "\x00" + o.Root))
	s.print = "tarbert-" + o.Version + "-" + hex.EncodeToString(sum[:4])
	s.metrics = newMetrics(o.Model, o.Context)
	s.scheduler = newScheduler(m, limits{batch: o.MaxBatch, kv: o.KVTokens}, o.MaxRunning, o.MaxWaiting, o.Now, s.metrics)
	s.routes = map[string]map[string]http.HandlerFunc{
		"/v1/models":           {http.MethodGet: s.models},
		"/v1/completions":      {http.MethodPost: s.completions},
		"/v1/chat/completions": {http.MethodPost: s.chat},
		"/tokenize":            {http.MethodPost: s.tokenize},
		"/detokenize":          {http.MethodPost: s.detokenize},
		"/health":              {http.MethodGet: s.health},
		"/ping":                {http.MethodGet: s.health, http.MethodPost: s.health},
		"/version":             {http.MethodGet: s.version},
		"/load":                {http.MethodGet: s.serverLoad},
		"/metrics":             {http.MethodGet: s.metrics.handler().ServeHTTP},
	}
	if o.TokenizerInfo {
		s.routes["/tokenizer_info"] = map[string]http.HandlerFunc{http.MethodGet: s.tokenizerInfo}
	}
	return s
}

func (o Options) withDefaults(longest int) Options {
	set := func(v *int, otherwise int) {
		if *v == 0 {
			*v = otherwise
		}
	}
	if o.Model == "" {
		o.Model = "model"
	}
	if o.Root == "" {
		o.Root = o.Model
	}
	if o.Version == "" {
		o.Version = "0"
	}
	set(&o.Context, longest)
	o.Context = min(o.Context, longest)
	set(&o.MaxRunning, 256)
	set(&o.MaxWaiting, 4096)
	set(&o.MaxBatch, 2048)
	o.MaxBatch = max(o.MaxBatch, o.MaxRunning)
	set(&o.KVTokens, 65536)
	o.KVTokens = max(o.KVTokens, o.Context+1)
	set(&o.MaxLogprobs, 20)
	if o.MaxBody == 0 {
		o.MaxBody = 16 << 20
	}
	if o.Drain == 0 {
		o.Drain = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Entropy == nil {
		o.Entropy = entropy
	}
	return o
}

func entropy() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: the process ends instead
	return binary.LittleEndian.Uint64(b[:])
}

// Close refuses new requests, lets the running ones finish for Options.Drain,
// ends the rest with an error and returns when the scheduler has ended.
func (s *Server) Close() {
	s.closing.Store(true)
	s.closed.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.o.Drain)
		defer cancel()
		s.scheduler.close(ctx)
	})
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	methods, known := s.routes[r.URL.Path]
	name := r.URL.Path
	if !known {
		name = "none" // paths that clients make up are no label
	}
	defer func() {
		s.metrics.requests.WithLabelValues(r.Method, rec.class(), name).Inc()
	}()
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/") && !s.authorized(r):
		writeJSON(rec, http.StatusUnauthorized, map[string]string{"error": "Unauthorized"})
	case !known:
		writeJSON(rec, http.StatusNotFound, map[string]string{"detail": "Not Found"})
	case methods[r.Method] == nil:
		var allowed []string
		for m := range methods {
			allowed = append(allowed, m)
		}
		slices.Sort(allowed)
		rec.Header().Set("Allow", strings.Join(allowed, ", "))
		writeJSON(rec, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
	default:
		methods[r.Method](rec, r)
	}
}

// authorized compares the bearer token with every key in constant time.
func (s *Server) authorized(r *http.Request) bool {
	if len(s.o.APIKeys) == 0 {
		return true
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	hash := sha256.Sum256([]byte(given))
	ok := 0
	for _, key := range s.o.APIKeys {
		want := sha256.Sum256([]byte(key))
		ok |= subtle.ConstantTimeCompare(hash[:], want[:])
	}
	return ok == 1 && strings.EqualFold(scheme, "Bearer")
}

// readBody checks the content type and reads the body.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (*fields, *apiError) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, &apiError{
			Message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
			Type:    badForm, Code: http.StatusBadRequest,
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.o.MaxBody))
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return nil, &apiError{
			Message: "the request's body is larger than this server reads", Type: tooLarge, Code: http.StatusRequestEntityTooLarge,
		}
	case err != nil:
		return nil, refuse("the request's body could not be read: %v", err)
	}
	return readFields(body)
}

// checkModel answers requests for another model.
func (s *Server) checkModel(name string) *apiError {
	names := append([]string{s.o.Model}, s.o.Aliases...)
	if name == "" || slices.Contains(names, name) {
		return nil
	}
	param := "model"
	return &apiError{
		Message: "The model `" + name + "` does not exist. Valid aliases: " + strings.Join(names, ", ") + ".",
		Type:    notFound, Param: &param, Code: http.StatusNotFound,
	}
}

// newID makes the random part of an answer's id, or takes the client's.
func (s *Server) newID(prefix string, r *http.Request, own string) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" {
		id = own
	}
	if id == "" || len(id) > 128 {
		var b [8]byte
		_, _ = rand.Read(b[:])
		id = hex.EncodeToString(b[:])
	}
	return prefix + id
}

// submit hands jobs to the scheduler.
func (s *Server) submit(jobs []*job) *apiError {
	if err := s.scheduler.submit(jobs); err != nil {
		why := "overload"
		if errors.Is(err, errClosed) {
			why = "closing"
		}
		s.metrics.rejections.WithLabelValues(why).Inc()
		return engineError(err)
	}
	return nil
}

// engineError is the answer where the engine, not the request, is at fault.
func engineError(err error) *apiError {
	if errors.Is(err, errClosed) || errors.Is(err, errOverloaded) {
		return &apiError{
			Message: "The server cannot take this request now: " + err.Error() + ". Try again later.",
			Type:    overloaded, Code: http.StatusServiceUnavailable,
		}
	}
	return &apiError{Message: err.Error(), Type: internal, Code: http.StatusInternalServerError}
}

// recorder remembers the status for the metrics.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(code int) {
	r.status = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// class is "2xx" and so on.
func (r *recorder) class() string { return string(rune('0'+r.status/100)) + "xx" }
