{{/* What a service is told by its environment: the ConfigMap's variables, and those that are secrets. */}}

{{/* (list $ name service): the variables that are no secrets. */}}
{{- define "tally.settings" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index . 2 -}}
{{- $callers := list -}}
{{- range include "tally.callers" (list $root $name) | fromYamlArray -}}
{{- $callers = append $callers (include "tally.subject" (list $root .)) -}}
{{- end -}}
{{- $operators := list -}}
{{- if include "tally.disruptive" $root -}}
{{- $operators = append $operators (include "tally.subject" (list $root "test")) -}}
{{- end -}}
{{- range $root.Values.tokens.operators -}}
{{- $operators = append $operators (include "tally.subject" (list $root .)) -}}
{{- end -}}
{{- $settings := dict
  "TALLY_HOST" "0.0.0.0"
  "TALLY_PORT" (int $service.port)
  "TALLY_LOG_FORMAT" "json"
  "TALLY_REQUEST_DEADLINE_S" (include "tally.deadline" (list $root $service))
  "TALLY_SHUTDOWN_GRACE_S" (include "tally.shutdownGrace" (list $root $service))
  "TALLY_TOKEN_ISSUER" $root.Values.tokens.issuer
  "TALLY_TOKEN_FOLDER" (include "tally.tokenFolder" $root)
  "TALLY_TOKEN_CALLERS" (default "nobody" (join "," $callers))
  "TALLY_TOKEN_OPERATORS" (default "nobody" (join "," $operators))
  "TALLY_FAULTS" (ternary "on" "off" $root.Values.faults)
-}}
{{- if $root.Values.tokens.jwks -}}
{{- $_ := set $settings "TALLY_TOKEN_JWKS" (printf "%s/jwks.json" (include "tally.tokenFolder" $root)) -}}
{{- else -}}
{{- $_ := set $settings "TALLY_TOKEN_JWKS" $root.Values.tokens.jwksUrl -}}
{{- $_ := set $settings "TALLY_TOKEN_JWKS_CA_FILE" (printf "%s/ca.crt" (include "tally.tokenFolder" $root)) -}}
{{- $_ := set $settings "TALLY_TOKEN_JWKS_BEARER_FILE" (printf "%s/api-server" (include "tally.tokenFolder" $root)) -}}
{{- end -}}
{{- range $service.calls -}}
{{- $port := int (get $root.Values.services .).port -}}
{{- $_ := set $settings (printf "TALLY_%s_URL" (upper .)) (printf "%s://%s:%d" (include "tally.scheme" $root) (include "tally.name" (list $root .)) $port) -}}
{{- end -}}
{{- with $root.Values.tls -}}
{{- if .secret -}}
{{- $folder := include "tally.tlsFolder" $root -}}
{{- $_ := set $settings "TALLY_TLS_CERT_FILE" (printf "%s/tls.crt" $folder) -}}
{{- $_ := set $settings "TALLY_TLS_KEY_FILE" (printf "%s/tls.key" $folder) -}}
{{- if .ca -}}
{{- $_ := set $settings "TALLY_TLS_CA_FILE" (printf "%s/%s" $folder .ca) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $service.half -}}
{{- $_ := set $settings "TALLY_SETTLE_LAG_S" (include "tally.settleLag" $root) -}}
{{- end -}}
{{- if $service.stream -}}
{{- $_ := set $settings "TALLY_STREAM_REPLICAS" (int $root.Values.nats.streamReplicas) -}}
{{- $_ := set $settings "TALLY_STREAM_MAX_BYTES" (int64 $root.Values.nats.streamMaxBytes) -}}
{{- end -}}
{{- if and $service.stream (eq $root.Values.nats.mode "external") $root.Values.nats.url -}}
{{- $_ := set $settings "TALLY_STREAM_URL" $root.Values.nats.url -}}
{{- end -}}
{{- if and $service.stream $root.Values.nats.credentialsSecret -}}
{{- $_ := set $settings "TALLY_STREAM_CREDENTIALS_FILE" "/var/run/secrets/nats/nats.creds" -}}
{{- end -}}
{{- if $service.mail -}}
{{- $_ := set $settings "TALLY_SMTP_HOST" (include "tally.mailHost" $root) -}}
{{- $_ := set $settings "TALLY_SMTP_PORT" (include "tally.mailPort" $root) -}}
{{- $encrypted := and (eq $root.Values.mail.mode "external") $root.Values.mail.starttls -}}
{{- $_ := set $settings "TALLY_SMTP_STARTTLS" (ternary "on" "off" $encrypted) -}}
{{- $_ := set $settings "TALLY_MAIL_FROM" $root.Values.mail.from -}}
{{- end -}}
{{- if $root.Values.tracing.endpoint -}}
{{- $_ := set $settings "OTEL_EXPORTER_OTLP_ENDPOINT" $root.Values.tracing.endpoint -}}
{{- end -}}
{{- range $variable, $value := mergeOverwrite $settings $service.settings }}
{{ $variable }}: {{ include "tally.setting" (list $variable $value) | quote }}
{{- end }}
{{- end -}}

{{/* (list variable value): as the services read it. YAML takes an unquoted `on` for true, and a large number comes as one
     with an exponent. (OpenTelemetry's switches are true and false.) */}}
{{- define "tally.setting" -}}
{{- $value := last . -}}
{{- if and (kindIs "bool" $value) (hasPrefix "TALLY_" (first .)) -}}
{{- ternary "on" "off" $value -}}
{{- else if and (kindIs "float64" $value) (eq $value (floor $value)) -}}
{{- int64 $value -}}
{{- else -}}
{{- $value -}}
{{- end -}}
{{- end -}}

{{/* (list $ name service): the variables of a container. */}}
{{- define "tally.environment" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index . 2 -}}
envFrom:
  - configMapRef:
      name: {{ include "tally.name" (list $root $name) }}
  {{- with include "tally.fromSecrets" . }}
  {{- . | nindent 2 }}
  {{- end }}
env:
  {{- include "tally.variables" . | nindent 2 }}
  {{- if and $service.stream (or (eq $root.Values.nats.mode "bundled") $root.Values.nats.existingSecret) }}
  - name: TALLY_STREAM_URL
    valueFrom:
      secretKeyRef:
        name: {{ include "tally.natsSecret" $root }}
        key: url
  {{- end }}
{{- end -}}

{{/* (list $ name service): the variables of a migration that needs no ConfigMap: the settings themselves, without those of
     the stream, of tokens and of TLS, which it does not use. (An empty one counts as not set.) */}}
{{- define "tally.environmentAlone" -}}
{{- with include "tally.fromSecrets" . -}}
envFrom:
  {{- . | nindent 2 }}
{{- end }}
env:
  {{- include "tally.variables" . | nindent 2 }}
  {{- range $variable, $value := include "tally.settings" . | fromYaml }}
  {{- if not (regexMatch "^TALLY_(STREAM|TLS)_|^TALLY_TOKEN_(FOLDER|KEY_FILE|JWKS_.*)$" $variable) }}
  - name: {{ $variable }}
    value: {{ $value | quote }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* (list $ name service): the Secrets whose keys are variables. */}}
{{- define "tally.fromSecrets" -}}
{{- $mail := (index . 0).Values.mail -}}
{{- $service := index . 2 -}}
{{- $secrets := $service.settingsFromSecrets -}}
{{- if and $service.mail $mail.existingSecret -}}
{{- $secrets = append $secrets $mail.existingSecret -}}
{{- end -}}
{{- range $secrets }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end -}}

{{/* (list $ name service): the variables that a container of the service has one by one. */}}
{{- define "tally.variables" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- if (index . 2).database }}
- name: TALLY_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "tally.databaseSecret" . }}
      key: uri
{{- end }}
{{- end -}}
