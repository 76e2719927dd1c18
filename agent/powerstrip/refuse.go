package powerstrip

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// prefix begins every sentence of ours that dockerd's client shows.
const prefix = "socketplane: "

// maxSentence bounds a refusal's sentence in a request, in bytes: it stands in
// the request's line, too.
const maxSentence = 1000

// sentence is what dockerd's client shows of a refusal: one line.
func sentence(err error) string {
	s := prefix + strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > maxSentence {
		s = s[:maxSentence]
	}
	return strings.ToValidUTF8(s, "")
}

// refusedCreate gives the request with which Powerstrip goes on after a refusal.
// Powerstrip ignores the status of an adapter's answer, and hangs when the answer
// has no ModifiedClientRequest. So it gets a request that dockerd itself refuses,
// with our sentence in the error: a container with an impossible variable, which
// dockerd checks before it looks for the image. Versions that do not check it
// refuse the name, which is not one either.
func refusedCreate(request *jsonobject.Object, err error) *jsonobject.Object {
	if request == nil {
		request = jsonobject.New()
	}
	path := "/containers/create"
	var method, target string
	if json.Unmarshal(request.Get("Method"), &method) == nil && json.Unmarshal(request.Get("Request"), &target) == nil {
		if asked, _, _ := strings.Cut(target, "?"); IsCreate(method, asked) {
			path = asked
		}
	}
	says := sentence(err)
	body := jsonobject.New()
	body.Set("Image", jsonobject.String("refused-by-socketplane"))
	body.Set("Env", append(append(json.RawMessage("["), jsonobject.String("="+says)...), ']'))
	body.Set("HostConfig", json.RawMessage("{}"))
	request.Set("Method", jsonobject.String(http.MethodPost))
	request.Set("Request", jsonobject.String(path+"?name="+url.QueryEscape(says)))
	request.Set("Body", jsonobject.String(string(body.Bytes())))
	return request
}

// isUnread says whether a message was not read to its end, for a reason that
// Powerstrip's client is to hear.
func isUnread(err error) bool {
	return errors.Is(err, errTooLarge) || errors.Is(err, os.ErrDeadlineExceeded)
}

// refusedUnread answers a message that was not read to its end. Only a pre-hook
// is that large: it carries what a client sent.
func refusedUnread(err error) json.RawMessage {
	m := jsonobject.New()
	m.Set("PowerstripProtocolVersion", json.RawMessage(strconv.Itoa(Protocol)))
	m.Set("ModifiedClientRequest", refusedCreate(nil, err).Bytes())
	return m.Bytes()
}

// refusedResponse is the response that a client gets in place of one that the
// hook's message lacks.
func refusedResponse(err error) *jsonobject.Object {
	body := jsonobject.New()
	body.Set("message", jsonobject.String(sentence(err)))
	response := jsonobject.New()
	response.Set("ContentType", jsonobject.String("application/json"))
	response.Set("Body", jsonobject.String(string(body.Bytes())))
	response.Set("Code", json.RawMessage(strconv.Itoa(http.StatusBadRequest)))
	return response
}

// writeError answers with a status and a sentence, as dockerd does.
func writeError(w http.ResponseWriter, err error) {
	status := api.CodeOf(err).HTTPStatus()
	switch {
	case status == http.StatusNotFound: // which Docker's client takes for an image that it has to pull
		status = http.StatusBadRequest
	case errors.Is(err, errTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		status = http.StatusRequestTimeout
	}
	if status == http.StatusRequestEntityTooLarge || status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close") // the rest of the body is not read
	}
	Refuse(w, status, err.Error())
}

// Refuse answers with a status and a sentence in the shape of dockerd's.
func Refuse(w http.ResponseWriter, status int, message string) {
	o := jsonobject.New()
	o.Set("message", jsonobject.String(prefix+message))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(o.Bytes(), '\n')) // nobody is left to be told
}
