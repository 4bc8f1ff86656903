{{/* What all of the image's containers and pods have in common: who they run as, their files, their tokens. */}}

{{/* The restricted profile of Pod Security; (list uid) is the user and group. */}}
{{- define "tally.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ first . }}
runAsGroup: {{ first . }}
fsGroup: {{ first . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tally.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The user and group of the image. */}}
{{- define "tally.uid" -}}65532{{- end -}}

{{- define "tally.tokenFolder" -}}/var/run/secrets/tally{{- end -}}

{{/* (list $ audiences): a projected token per audience, and what the cluster's public keys are read with. */}}
{{- define "tally.tokenVolume" -}}
{{- $root := first . -}}
name: tokens
projected:
  sources:
    {{- range last . }}
    - serviceAccountToken:
        audience: {{ . }}
        path: {{ . }}
        expirationSeconds: {{ $root.Values.tokens.expirationSeconds | int }}
    {{- end }}
    {{- if $root.Values.tokens.jwks }}
    - configMap:
        name: {{ include "tally.name" (list $root "jwks") }}
    {{- else }}
    - serviceAccountToken:
        path: api-server
        expirationSeconds: {{ $root.Values.tokens.expirationSeconds | int }}
    - configMap:
        name: kube-root-ca.crt
        items:
          - key: ca.crt
            path: ca.crt
    {{- end }}
{{- end -}}

{{/* (list $ name service): the volumes of a service's pod. */}}
{{- define "tally.volumes" -}}
{{- $root := index . 0 -}}
{{- $service := index . 2 -}}
- {{ include "tally.tokenVolume" (list $root $service.calls) | nindent 2 | trim }}
{{ include "tally.volumesAlone" . }}
{{- if and $service.stream $root.Values.nats.credentialsSecret }}
- name: nats-credentials
  secret:
    secretName: {{ $root.Values.nats.credentialsSecret }}
{{- end }}
{{- with $root.Values.tls.secret }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* (list $ name service): where its containers find them. */}}
{{- define "tally.mounts" -}}
{{- $root := index . 0 -}}
{{- $service := index . 2 -}}
- name: tokens
  mountPath: {{ include "tally.tokenFolder" $root }}
  readOnly: true
{{ include "tally.mountsAlone" . }}
{{- if and $service.stream $root.Values.nats.credentialsSecret }}
- name: nats-credentials
  mountPath: /var/run/secrets/nats
  readOnly: true
{{- end }}
{{- if $root.Values.tls.secret }}
- name: tls
  mountPath: {{ include "tally.tlsFolder" $root }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* (list $ name service): of these, what a migration needs as well. */}}
{{- define "tally.volumesAlone" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with (index . 2).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tally.mountsAlone" -}}
- name: tmp
  mountPath: /tmp
{{- with (index . 2).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tally.tlsFolder" -}}/var/run/secrets/tls{{- end -}}

{{/* What services speak; probes say it in capitals. */}}
{{- define "tally.scheme" -}}{{- ternary "https" "http" (ne .Values.tls.secret "") -}}{{- end -}}

{{/* (list $ path): a probe of the admin port. */}}
{{- define "tally.probe" -}}
httpGet:
  path: {{ last . }}
  port: admin
  {{- if (first .).Values.tls.secret }}
  scheme: HTTPS
  {{- end }}
{{- end -}}

{{/* (list $ name service): the container that brings the service's database to its schema. Any number may run at
     once: one holds the advisory lock, the others wait, and find nothing to do. */}}
{{- define "tally.migration" -}}
{{ include "tally.migrationProgram" . }}
{{ include "tally.environment" . }}
volumeMounts:
  {{- include "tally.mounts" . | nindent 2 }}
{{- end -}}

{{/* The same for a Job, which needs nothing that Helm makes but its account and the database's Secret: before an upgrade
     the objects are there that the last release left, and a ConfigMap of then would name files that are not mounted now. */}}
{{- define "tally.migrationAlone" -}}
{{ include "tally.migrationProgram" . }}
{{ include "tally.environmentAlone" . }}
volumeMounts:
  {{- include "tally.mountsAlone" . | nindent 2 }}
{{- end -}}

{{- define "tally.migrationProgram" -}}
{{- $root := index . 0 -}}
{{- $service := index . 2 -}}
name: migrate
image: {{ include "tally.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command: [python, -m, services.{{ index . 1 }}, migrate]
resources:
  {{- toYaml $service.resources | nindent 2 }}
securityContext:
  {{- include "tally.containerSecurity" . | nindent 2 }}
{{- end -}}

{{/* (service): on which nodes its pods are, and before whom; the affinity is not in here. */}}
{{- define "tally.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* An answer that is lost costs a second, not the five that resolvers wait by default. */}}
{{- define "tally.dnsConfig" -}}
dnsConfig:
  options:
    - name: ndots
      value: "2"
    - name: timeout
      value: "1"
    - name: attempts
      value: "3"
    - name: single-request-reopen
{{- end -}}

{{- define "tally.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* `sleep` is the kubelet's own since 1.30; before, it is a program of the image. */}}
{{- define "tally.preStop" -}}
{{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version -}}
sleep:
  seconds: {{ .Values.preStopSeconds | int }}
{{- else -}}
exec:
  command: [sleep, {{ .Values.preStopSeconds | int | quote }}]
{{- end -}}
{{- end -}}
