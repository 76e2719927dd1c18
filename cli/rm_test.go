package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// endingService shows each endpoint a few times before it has heard of its end.
type endingService struct {
	api.Service
	shows   int
	shown   map[string]int
	refuse  error // what Release says
	release []string
}

func (s *endingService) Endpoint(_ context.Context, id string) (api.Endpoint, error) {
	if s.shown[id]++; s.shown[id] <= s.shows {
		return api.Endpoint{ID: id}, nil
	}
	return api.Endpoint{}, api.Errorf(api.CodeNotFound, "endpoint %q is not there", id)
}

func (s *endingService) Release(_ context.Context, id string) error {
	if s.shown[id] <= s.shows {
		return api.Errorf(api.CodeInternal, "%q lives", id)
	}
	s.release = append(s.release, id)
	return s.refuse
}

func TestWaitReleased(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse error
		note   string // on standard error
		fails  string
	}{
		{name: "freed"},
		{name: "the store is away", refuse: api.Errorf(api.CodeUnavailable, "the store cannot be reached"), note: "is freed as soon as possible: the store cannot be reached"},
		{name: "another failure", refuse: api.Errorf(api.CodeInternal, "it went wrong"), fails: "free the address of container a: it went wrong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := &endingService{shows: 3, shown: map[string]int{}, refuse: c.refuse}
			var stderr bytes.Buffer
			err := (&app{stderr: &stderr}).waitReleased(t.Context(), svc, []string{"a", "b"})
			if c.fails != "" {
				if err == nil || err.Error() != c.fails {
					t.Errorf("it says %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil || strings.Join(svc.release, " ") != "a b" {
				t.Errorf("it waited for %q, %v", svc.release, err)
			}
			if c.note == "" && stderr.Len() > 0 || c.note != "" && strings.Count(stderr.String(), c.note) != 2 {
				t.Errorf("standard error has %q", &stderr)
			}
		})
	}
}
