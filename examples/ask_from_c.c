/* Asks an exported model for text through TensorFlow's C API: no Python, no keras_gpt.

   With the library and the headers of the Python package, T being its folder:

     T=$(python -c "import tensorflow as tf; print(tf.sysconfig.get_lib())")
     gcc -o ask_from_c ask_from_c.c -I"$T/include" "$T/libtensorflow_cc.so.2" \
       "$T/libtensorflow_framework.so.2" -Wl,-rpath,"$T"
     ./ask_from_c saved_models/demo/1 "The str type" \
       generate_with_defaults_prompt StatefulPartitionedCall_2:4

   The last two arguments are the tensors of the signature's input "prompt" and of its output
   "text", whose names are found with

     saved_model_cli show --dir saved_models/demo/1 --tag_set serve \
       --signature_def generate_with_defaults
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static TF_Status* status;

/* Ends the program with a message where the last call failed. */
static void check(const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static void no_free(void* data, size_t size, void* arg) {
  (void)data, (void)size, (void)arg;
}

/* Finds a tensor by its name in the graph, such as "operation:2"; without a number it is the first. */
static TF_Output find(TF_Graph* graph, const char* name) {
  char operation[512];
  snprintf(operation, sizeof operation, "%s", name);
  char* colon = strrchr(operation, ':');
  if (colon) *colon = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, operation), colon ? atoi(colon + 1) : 0};
  if (!output.oper) {
    fprintf(stderr, "the graph has no operation %s\n", operation);
    exit(1);
  }
  return output;
}

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: %s FOLDER PROMPT INPUT OUTPUT\n", argv[0]);
    return 2;
  }
  status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check("the model cannot be loaded");

  /* A batch of one prompt. */
  TF_TString prompt;
  TF_TString_Init(&prompt);
  TF_TString_Copy(&prompt, argv[2], strlen(argv[2]));
  const int64_t shape[] = {1};
  TF_Tensor* given =
      TF_NewTensor(TF_STRING, shape, 1, &prompt, sizeof prompt, no_free, NULL);

  TF_Output input = find(graph, argv[3]);
  TF_Output output = find(graph, argv[4]);
  TF_Tensor* answer = NULL;
  TF_SessionRun(session, NULL, &input, &given, 1, &output, &answer, 1, NULL, 0, NULL, status);
  check("the model cannot answer");
  if (TF_TensorType(answer) != TF_STRING) {
    fprintf(stderr, "%s is not a tensor of strings\n", argv[4]);
    return 1;
  }
  const TF_TString* text = TF_TensorData(answer);
  fwrite(TF_TString_GetDataPointer(text), 1, TF_TString_GetSize(text), stdout);
  putchar('\n');

  TF_DeleteTensor(answer);
  TF_DeleteTensor(given);
  TF_TString_Dealloc(&prompt);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
